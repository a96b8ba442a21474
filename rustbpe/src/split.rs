//! Cutting text into the pieces that merges never cross.

use std::fmt;
use std::sync::OnceLock;

use fancy_regex::Regex;
use regex_syntax::hir::{Class as HirClass, HirKind};

/// GPT-4's split pattern with digits in groups of at most two: at small vocabularies longer groups cost more ids than they
/// save tokens.
pub const PATTERN: &str = concat!(
    r"'(?i:[sdmt]|ll|ve|re)",
    r"|[^\r\n\p{L}\p{N}]?+\p{L}+",
    r"|\p{N}{1,2}",
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*",
    r"|\s*[\r\n]",
    r"|\s+(?!\S)",
    r"|\s+",
);

/// A pattern that can't be compiled, or a text that it can't be run on.
#[derive(Debug)]
pub enum SplitError {
    Pattern(String),
    Text(String),
}

impl fmt::Display for SplitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pattern(cause) => write!(f, "the split pattern isn't valid: {cause}"),
            Self::Text(cause) => write!(f, "the split pattern fails on this text: {cause}"),
        }
    }
}

impl std::error::Error for SplitError {}

/// Cuts text into pieces by one pattern.
pub enum Splitter {
    /// `PATTERN` as a state machine: no backtracking, linear in the text.
    Scanner,
    /// Any other pattern, by a backtracking engine.
    Regex(Box<Regex>),
}

impl Splitter {
    pub fn new(pattern: &str) -> Result<Self, SplitError> {
        if pattern == PATTERN {
            Ok(Self::Scanner)
        } else {
            Self::with_regex(pattern)
        }
    }

    /// The backtracking engine whatever the pattern: what the scanner is checked against.
    pub fn with_regex(pattern: &str) -> Result<Self, SplitError> {
        match Regex::new(pattern) {
            Ok(regex) => Ok(Self::Regex(Box::new(regex))),
            Err(cause) => Err(SplitError::Pattern(cause.to_string())),
        }
    }

    /// Hands every piece of `text` to `visit`, in order, until `visit` returns false.
    ///
    /// Text between two matches of a pattern that doesn't match everything is dropped, as tiktoken does; `PATTERN` covers
    /// every text.
    pub fn for_each_piece<'t>(&self, text: &'t str, mut visit: impl FnMut(&'t str) -> bool) -> Result<(), SplitError> {
        match self {
            Self::Scanner => {
                let mut start = 0;
                while start < text.len() {
                    let end = piece_end(text, start);
                    if !visit(&text[start..end]) {
                        break;
                    }
                    start = end;
                }
            }
            Self::Regex(regex) => {
                for found in regex.find_iter(text) {
                    let piece = found.map_err(|cause| SplitError::Text(cause.to_string()))?.as_str();
                    if !piece.is_empty() && !visit(piece) {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    pub fn pieces<'t>(&self, text: &'t str) -> Result<Vec<&'t str>, SplitError> {
        let mut pieces = Vec::new();
        self.for_each_piece(text, |piece| {
            pieces.push(piece);
            true
        })?;
        Ok(pieces)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Class {
    Other,
    Letter,
    Number,
    /// White space except the two line ends.
    Space,
    /// `\r` and `\n`, which the pattern treats apart from other white space.
    LineEnd,
}

/// The class of every code point, from the tables of the regex engine itself, so that both always speak the same Unicode
/// version.
fn classes() -> &'static [Class] {
    static CLASSES: OnceLock<Vec<Class>> = OnceLock::new();
    CLASSES.get_or_init(|| {
        let mut table = vec![Class::Other; char::MAX as usize + 1];
        for (pattern, class) in
            [(r"\p{L}", Class::Letter), (r"\p{N}", Class::Number), (r"\s", Class::Space), (r"[\r\n]", Class::LineEnd)]
        {
            let hir = regex_syntax::parse(pattern).expect("a constant pattern");
            let HirKind::Class(HirClass::Unicode(set)) = hir.kind() else {
                unreachable!("{pattern} is a class of characters");
            };
            for range in set.ranges() {
                table[range.start() as usize..=range.end() as usize].fill(class);
            }
        }
        table
    })
}

/// Class and length in bytes of the character at `at`, or None at the end of the text.
#[inline]
fn class_at(text: &str, at: usize) -> Option<(Class, usize)> {
    let first = *text.as_bytes().get(at)?;
    if first < 0x80 {
        return Some((classes()[first as usize], 1));
    }
    let character = text[at..].chars().next()?;
    Some((classes()[character as usize], character.len_utf8()))
}

/// End of the run of characters from `at` on whose class satisfies `inside`.
#[inline]
fn run_end(text: &str, mut at: usize, inside: impl Fn(Class) -> bool) -> usize {
    while let Some((class, length)) = class_at(text, at) {
        if !inside(class) {
            break;
        }
        at += length;
    }
    at
}

/// Length of an English contraction at `at`, whose first byte is an apostrophe: `'s 'd 'm 't 'll 've 're`, either case.
fn contraction(text: &str, at: usize) -> Option<usize> {
    let rest = &text.as_bytes()[at + 1..];
    match rest.first()?.to_ascii_lowercase() {
        b's' | b'd' | b'm' | b't' => return Some(2),
        // U+017F LATIN SMALL LETTER LONG S folds to s, so the case-insensitive group takes it too.
        0xC5 if rest.get(1) == Some(&0xBF) => return Some(3),
        _ => {}
    }
    let pair = [rest.first()?.to_ascii_lowercase(), rest.get(1)?.to_ascii_lowercase()];
    matches!(&pair, b"ll" | b"ve" | b"re").then_some(3)
}

/// End of the piece that starts at `start` < text.len(), by `PATTERN`; its alternatives in the pattern's order.
fn piece_end(text: &str, start: usize) -> usize {
    let bytes = text.as_bytes();
    let (class, length) = class_at(text, start).expect("start lies inside the text");

    if bytes[start] == b'\'' {
        if let Some(length) = contraction(text, start) {
            return start + length;
        }
    }
    let next = start + length;
    match class {
        Class::Letter => return run_end(text, next, |class| class == Class::Letter),
        Class::Number => {
            return match class_at(text, next) {
                Some((Class::Number, length)) => next + length,
                _ => next,
            }
        }
        // Any one character but a line end, a letter or a digit joins the letters after it.
        Class::Space | Class::Other => {
            if let Some((Class::Letter, _)) = class_at(text, next) {
                return run_end(text, next, |class| class == Class::Letter);
            }
        }
        Class::LineEnd => {}
    }

    // Symbols, after at most one plain space, take the line ends that follow.
    let symbols = if bytes[start] == b' ' { next } else { start };
    let symbols_end = run_end(text, symbols, |class| class == Class::Other);
    if symbols_end > symbols {
        return run_end(text, symbols_end, |class| class == Class::LineEnd);
    }

    // White space: up to its last line end; else all but the last character, which belongs to what follows; else all.
    let mut at = start;
    let mut last_start = start;
    let mut last_line_end = None;
    while let Some((class @ (Class::Space | Class::LineEnd), length)) = class_at(text, at) {
        last_start = at;
        at += length;
        if class == Class::LineEnd {
            last_line_end = Some(at);
        }
    }
    match last_line_end {
        Some(end) => end,
        None if at < text.len() && last_start > start => last_start,
        None => at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agree(text: &str) {
        static REGEX: OnceLock<Splitter> = OnceLock::new();
        let regex = REGEX.get_or_init(|| Splitter::with_regex(PATTERN).unwrap());
        let scanner = Splitter::new(PATTERN).unwrap();
        assert!(matches!(scanner, Splitter::Scanner));
        assert_eq!(scanner.pieces(text).unwrap(), regex.pieces(text).unwrap(), "text: {text:?}");
    }

    #[test]
    fn cuts_words_digits_symbols_and_space() {
        let scanner = Splitter::new(PATTERN).unwrap();
        assert_eq!(
            scanner.pieces("It's 12345 o'clock:\n\n  x = [1]; ").unwrap(),
            ["It", "'s", " ", "12", "34", "5", " o", "'clock", ":\n\n", " ", " x", " =", " [", "1", "];", " "]
        );
    }

    #[test]
    fn empty_text_has_no_pieces() {
        assert!(Splitter::new(PATTERN).unwrap().pieces("").unwrap().is_empty());
    }

    #[test]
    fn every_short_string_over_the_telling_characters_agrees_with_the_regex() {
        let alphabet: Vec<char> = " \t\n\r'sSlLvEx7!\u{e9}\u{17f}\u{3000}\u{660}\u{85}".chars().collect();
        let n = alphabet.len();
        for length in 1..=4usize {
            for code in 0..n.pow(length as u32) {
                let text: String = (0..length).map(|place| alphabet[code / n.pow(place as u32) % n]).collect();
                agree(&text);
            }
        }
    }

    #[test]
    fn every_code_point_agrees_with_the_regex() {
        let mut text = String::new();
        for character in '\0'..=char::MAX {
            // Between a letter, a digit and a symbol, each class of character makes other pieces.
            text.extend(['a', character, '1', character, '!', character, '\'', character, ' ', character, 'a']);
            if text.len() > 1 << 16 {
                agree(&text);
                text.clear();
            }
        }
        agree(&text);
    }

    #[test]
    fn a_run_of_space_beyond_the_backtracking_limit_is_one_piece() {
        let text = " ".repeat(3_000_000) + "x";
        let pieces = Splitter::new(PATTERN).unwrap();
        let pieces = pieces.pieces(&text).unwrap();
        assert_eq!(pieces.len(), 2);
        assert_eq!(pieces[0].len(), 2_999_999);
    }

    #[test]
    fn other_patterns_run_by_the_regex_engine() {
        let words = Splitter::new(r"\w+").unwrap();
        assert_eq!(words.pieces("ab, cd").unwrap(), ["ab", "cd"]);
        assert!(matches!(Splitter::new("("), Err(SplitError::Pattern(_))));
    }
}
