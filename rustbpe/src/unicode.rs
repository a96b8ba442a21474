//! Classes of characters as the split patterns tell them apart, and a decoder of UTF-8 that never fails.

use std::sync::OnceLock;

use regex_syntax::hir::{Class as HirClass, HirKind};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Class {
    Other,
    Letter,
    Number,
    /// White space except the two line ends.
    Space,
    /// `\r` and `\n`, which the patterns treat apart from other white space.
    LineEnd,
}

/// The class of every code point.
pub struct Classes {
    /// By code point. The 1.1 MB are touched only where a text has such characters.
    table: Vec<Class>,
}

impl Classes {
    /// From the tables of the regex engine itself, so that both always speak the same Unicode version.
    pub fn get() -> &'static Self {
        static CLASSES: OnceLock<Classes> = OnceLock::new();
        CLASSES.get_or_init(|| {
            let mut table = vec![Class::Other; char::MAX as usize + 1];
            for (pattern, class) in [
                (r"\p{L}", Class::Letter),
                (r"\p{N}", Class::Number),
                (r"\s", Class::Space),
                (r"[\r\n]", Class::LineEnd),
            ] {
                let hir = regex_syntax::parse(pattern).expect("a constant pattern");
                let HirKind::Class(HirClass::Unicode(set)) = hir.kind() else {
                    unreachable!("{pattern} is a class of characters");
                };
                for range in set.ranges() {
                    table[range.start() as usize..=range.end() as usize].fill(class);
                }
            }
            Self { table }
        })
    }

    /// Class and length in bytes of the character at `at`, or None at the end of the text. A sequence that isn't UTF-8
    /// counts as one U+FFFD, up to the byte that makes it invalid: what lossy decoding replaces.
    #[inline]
    pub fn at(&self, text: &[u8], at: usize) -> Option<(Class, usize)> {
        let first = *text.get(at)?;
        if first < 0x80 {
            return Some((self.table[first as usize], 1));
        }
        let (code, length) = decode(&text[at..]);
        Some((self.table[code as usize], length))
    }

    /// End of the run of characters from `at` on whose class satisfies `inside`.
    #[inline]
    pub fn run_end(&self, text: &[u8], mut at: usize, inside: impl Fn(Class) -> bool) -> usize {
        while let Some((class, length)) = self.at(text, at) {
            if !inside(class) {
                break;
            }
            at += length;
        }
        at
    }

    /// End of the run of letters from `at` on.
    #[inline]
    pub fn letters_end(&self, text: &[u8], mut at: usize) -> usize {
        loop {
            at = ascii_letters_end(text, at);
            if text.get(at).is_none_or(|&byte| byte < 0x80) {
                return at;
            }
            let (code, length) = decode(&text[at..]);
            if self.table[code as usize] != Class::Letter {
                return at;
            }
            at += length;
        }
    }
}

/// End of the run of ASCII letters from `at` on.
#[inline]
fn ascii_letters_end(text: &[u8], mut at: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    while let Some(block) = text.get(at..at + 16) {
        // Every x86-64 has SSE2.
        let inside = unsafe { letter_mask(block.as_ptr()) };
        if inside != 0xFFFF {
            return at + inside.trailing_ones() as usize;
        }
        at += 16;
    }
    while text.get(at).is_some_and(u8::is_ascii_alphabetic) {
        at += 1;
    }
    at
}

/// Which of the 16 bytes at `block` are ASCII letters, a bit each.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn letter_mask(block: *const u8) -> u32 {
    use std::arch::x86_64::{
        __m128i, _mm_add_epi8, _mm_cmplt_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
    };
    unsafe {
        let lower = _mm_or_si128(_mm_loadu_si128(block.cast::<__m128i>()), _mm_set1_epi8(0x20));
        // Moves 'a'..='z' to the lowest 26 signed values, so that one comparison finds them.
        let moved = _mm_add_epi8(lower, _mm_set1_epi8((0x80u8 - b'a') as i8));
        _mm_movemask_epi8(_mm_cmplt_epi8(moved, _mm_set1_epi8(-128 + 26))) as u32
    }
}

const REPLACEMENT: u32 = 0xFFFD;

/// Code point and length of the character that `text` begins with, whose first byte is 0x80 or more. What isn't UTF-8 is
/// U+FFFD, with the length of the longest start of a valid sequence, at least 1.
#[inline]
fn decode(text: &[u8]) -> (u32, usize) {
    let first = text[0];
    let next = |i: usize| text.get(i).copied().filter(|byte| byte & 0xC0 == 0x80).map(|byte| u32::from(byte & 0x3F));
    match first {
        0xC2..=0xDF => match next(1) {
            Some(second) => (u32::from(first & 0x1F) << 6 | second, 2),
            None => (REPLACEMENT, 1),
        },
        0xE0..=0xEF => {
            let Some(second) = next(1) else { return (REPLACEMENT, 1) };
            // Overlong forms and surrogates.
            if (first == 0xE0 && second < 0x20) || (first == 0xED && second >= 0x20) {
                return (REPLACEMENT, 1);
            }
            match next(2) {
                Some(third) => (u32::from(first & 0x0F) << 12 | second << 6 | third, 3),
                None => (REPLACEMENT, 2),
            }
        }
        0xF0..=0xF4 => {
            let Some(second) = next(1) else { return (REPLACEMENT, 1) };
            // Overlong forms and what lies beyond U+10FFFF.
            if (first == 0xF0 && second < 0x10) || (first == 0xF4 && second >= 0x10) {
                return (REPLACEMENT, 1);
            }
            let Some(third) = next(2) else { return (REPLACEMENT, 2) };
            match next(3) {
                Some(fourth) => (u32::from(first & 0x07) << 18 | second << 12 | third << 6 | fourth, 4),
                None => (REPLACEMENT, 3),
            }
        }
        _ => (REPLACEMENT, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decoded by our decoder: what lossy decoding gives.
    fn lossy(bytes: &[u8]) -> String {
        let mut text = String::new();
        let mut at = 0;
        while at < bytes.len() {
            let (code, length) = if bytes[at] < 0x80 { (u32::from(bytes[at]), 1) } else { decode(&bytes[at..]) };
            text.push(char::from_u32(code).expect("a character"));
            at += length;
        }
        text
    }

    #[test]
    fn decodes_every_character() {
        let all: String = ('\0'..=char::MAX).collect();
        assert_eq!(lossy(all.as_bytes()), all);
    }

    #[test]
    fn replaces_what_is_not_utf8_as_the_standard_library_does() {
        // Every start of a sequence that a border of the rules runs through, whole, cut and followed by other bytes.
        let telling = [
            0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED, 0xEE,
            0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF,
        ];
        let n = telling.len();
        for length in 1..=4u32 {
            for code in 0..n.pow(length) {
                let bytes: Vec<u8> = (0..length).map(|place| telling[code / n.pow(place) % n]).collect();
                assert_eq!(lossy(&bytes), String::from_utf8_lossy(&bytes), "{bytes:x?}");
            }
        }
    }

    #[test]
    fn finds_the_end_of_letters_at_every_offset() {
        for length in 0..70 {
            for stop in [b'@', b'[', b'`', b'{', b' ', 0, 0x7F, 0xE1, 0xC1, 0xFA] {
                let mut text = vec![b'q'; length];
                text.extend([stop; 20]);
                for start in 0..=length {
                    assert_eq!(ascii_letters_end(&text, start), length);
                    assert_eq!(ascii_letters_end(&text[..length], start), length);
                }
            }
        }
        for byte in 0..=u8::MAX {
            let end = ascii_letters_end(&[byte; 16], 0);
            assert_eq!(end, if byte.is_ascii_alphabetic() { 16 } else { 0 }, "{byte:x}");
        }
    }
}
