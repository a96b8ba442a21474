//! Cutting text into the pieces that merges never cross.

use std::fmt;

use fancy_regex::Regex;

use crate::unicode::{Class, Classes};

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
///
/// Text is bytes. Where they aren't UTF-8 they are cut as the text that lossy decoding makes of them (a U+FFFD for every
/// longest start of a character), and the pieces keep the bytes as they are.
#[derive(Clone)]
pub enum Splitter {
    /// `PATTERN` as a state machine: no backtracking, linear in the text.
    Scanner(Scanner),
    /// Any other pattern, by a backtracking engine. A clone has scratch memory of its own, so every thread takes one.
    Regex(Box<Regex>),
}

impl Splitter {
    pub fn new(pattern: &str) -> Result<Self, SplitError> {
        for digits in 1..=3 {
            if pattern == PATTERN.replace("{1,2}", &format!("{{1,{digits}}}")) {
                return Ok(Self::Scanner(Scanner { classes: Classes::get(), digits }));
            }
        }
        Self::with_regex(pattern)
    }

    /// The backtracking engine whatever the pattern: what the scanner is checked against.
    pub fn with_regex(pattern: &str) -> Result<Self, SplitError> {
        match Regex::new(pattern) {
            Ok(regex) => Ok(Self::Regex(Box::new(regex))),
            Err(cause) => Err(SplitError::Pattern(cause.to_string())),
        }
    }

    /// Hands every piece of `text` to `visit`, as its start and end, in order, until `visit` returns false.
    ///
    /// Text between two matches of a pattern that doesn't match everything is dropped, as tiktoken does; `PATTERN` covers
    /// every text.
    #[inline]
    pub fn for_each_piece(&self, text: &[u8], mut visit: impl FnMut(usize, usize) -> bool) -> Result<(), SplitError> {
        match self {
            Self::Scanner(scanner) => {
                let mut start = 0;
                while start < text.len() {
                    let end = scanner.piece_end(text, start);
                    if !visit(start, end) {
                        break;
                    }
                    start = end;
                }
                Ok(())
            }
            Self::Regex(regex) => match std::str::from_utf8(text) {
                Ok(text) => find_pieces(regex, text, visit),
                Err(_) => {
                    let lossy = Lossy::new(text);
                    find_pieces(regex, &lossy.text, |start, end| visit(lossy.place(start), lossy.place(end)))
                }
            },
        }
    }

    pub fn pieces<'t>(&self, text: &'t [u8]) -> Result<Vec<&'t [u8]>, SplitError> {
        let mut pieces = Vec::new();
        self.for_each_piece(text, |start, end| {
            pieces.push(&text[start..end]);
            true
        })?;
        Ok(pieces)
    }

    /// The last place in `text`, not before `from`, where it can be cut in two without any piece becoming another; None
    /// where there is none or the pattern isn't one whose cuts are known.
    pub fn last_safe_cut(&self, text: &[u8], from: usize) -> Option<usize> {
        let Self::Scanner(_) = self else { return None };
        // No piece goes on from a line end into a letter, and no piece looks at what was before its start.
        (from.max(1)..text.len()).rev().find(|&at| text[at - 1] == b'\n' && text[at].is_ascii_alphabetic())
    }
}

fn find_pieces(regex: &Regex, text: &str, mut visit: impl FnMut(usize, usize) -> bool) -> Result<(), SplitError> {
    for found in regex.find_iter(text) {
        let found = found.map_err(|cause| SplitError::Text(cause.to_string()))?;
        if found.start() < found.end() && !visit(found.start(), found.end()) {
            break;
        }
    }
    Ok(())
}

/// What lossy decoding makes of bytes, with the way back.
struct Lossy {
    text: String,
    /// Places in `text` after each replaced sequence, and in the bytes.
    places: Vec<(usize, usize)>,
}

impl Lossy {
    fn new(bytes: &[u8]) -> Self {
        let mut text = String::with_capacity(bytes.len());
        let mut places = vec![(0, 0)];
        let mut at = 0;
        for chunk in bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            at += chunk.valid().len() + chunk.invalid().len();
            if !chunk.invalid().is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
                places.push((text.len(), at));
            }
        }
        Self { text, places }
    }

    /// The place in the bytes of a place between two characters of the text.
    fn place(&self, at: usize) -> usize {
        let after = self.places.partition_point(|&(place, _)| place <= at) - 1;
        let (lossy, bytes) = self.places[after];
        // Just before a replaced sequence, characters are the same on both sides, so distances are too.
        bytes + (at - lossy)
    }
}

/// The state machine of `PATTERN`, with digits in groups of any one size.
#[derive(Clone, Copy)]
pub struct Scanner {
    classes: &'static Classes,
    digits: usize,
}

impl Scanner {
    /// End of the piece that starts at `start` < text.len(); the alternatives in the pattern's order.
    #[inline]
    fn piece_end(&self, text: &[u8], start: usize) -> usize {
        let classes = self.classes;
        // Nearly every piece of English or code is a word, with or without the space before it.
        let first = text[start];
        if first == b' ' {
            if text.get(start + 1).is_some_and(u8::is_ascii_alphabetic) {
                return classes.letters_end(text, start + 2);
            }
        } else if first.is_ascii_alphabetic() {
            return classes.letters_end(text, start + 1);
        }
        self.any_piece_end(text, start)
    }

    fn any_piece_end(&self, text: &[u8], start: usize) -> usize {
        let classes = self.classes;
        let (class, length) = classes.at(text, start).expect("start lies inside the text");
        if text[start] == b'\'' {
            if let Some(length) = contraction(text, start) {
                return start + length;
            }
        }
        let next = start + length;
        match class {
            Class::Letter => return classes.letters_end(text, next),
            Class::Number => {
                let mut at = next;
                for _ in 1..self.digits {
                    match classes.at(text, at) {
                        Some((Class::Number, length)) => at += length,
                        _ => break,
                    }
                }
                return at;
            }
            // Any one character but a line end, a letter or a digit joins the letters after it.
            Class::Space | Class::Other => {
                if let Some((Class::Letter, length)) = classes.at(text, next) {
                    return classes.letters_end(text, next + length);
                }
            }
            Class::LineEnd => {}
        }

        // Symbols, after at most one plain space, take the line ends that follow.
        let symbols = if text[start] == b' ' { next } else { start };
        let symbols_end = classes.run_end(text, symbols, |class| class == Class::Other);
        if symbols_end > symbols {
            return classes.run_end(text, symbols_end, |class| class == Class::LineEnd);
        }

        // White space: up to its last line end; else all but the last character, which belongs to what follows; else all.
        let mut at = start;
        let mut last_start = start;
        let mut last_line_end = None;
        while let Some((class @ (Class::Space | Class::LineEnd), length)) = classes.at(text, at) {
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
}

/// Length of an English contraction at `at`, whose first byte is an apostrophe: `'s 'd 'm 't 'll 've 're`, either case.
fn contraction(text: &[u8], at: usize) -> Option<usize> {
    let rest = &text[at + 1..];
    match rest.first()?.to_ascii_lowercase() {
        b's' | b'd' | b'm' | b't' => return Some(2),
        // U+017F LATIN SMALL LETTER LONG S folds to s, so the case-insensitive group takes it too.
        0xC5 if rest.get(1) == Some(&0xBF) => return Some(3),
        _ => {}
    }
    let pair = [rest.first()?.to_ascii_lowercase(), rest.get(1)?.to_ascii_lowercase()];
    matches!(&pair, b"ll" | b"ve" | b"re").then_some(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanner(digits: usize) -> Splitter {
        let splitter = Splitter::new(&PATTERN.replace("{1,2}", &format!("{{1,{digits}}}"))).unwrap();
        assert!(matches!(splitter, Splitter::Scanner(Scanner { digits: n, .. }) if n == digits));
        splitter
    }

    thread_local! {
        static ENGINES: Vec<(Splitter, Splitter)> = (1..=3)
            .map(|digits| {
                let pattern = PATTERN.replace("{1,2}", &format!("{{1,{digits}}}"));
                (scanner(digits), Splitter::with_regex(&pattern).unwrap())
            })
            .collect();
    }

    fn agree(text: &[u8]) {
        ENGINES.with(|engines| {
            for (scanner, regex) in engines {
                let (ours, theirs) = (scanner.pieces(text).unwrap(), regex.pieces(text).unwrap());
                assert_eq!(ours, theirs, "text: {:?}", String::from_utf8_lossy(text));
                assert_eq!(ours.concat(), text);
            }
        });
    }

    #[test]
    fn cuts_words_digits_symbols_and_space() {
        let text = "It's 12345 o'clock:\n\n  x = [1]; ";
        let pieces = scanner(2).pieces(text.as_bytes()).unwrap();
        let pieces: Vec<_> = pieces.into_iter().map(|piece| std::str::from_utf8(piece).unwrap()).collect();
        assert_eq!(
            pieces,
            ["It", "'s", " ", "12", "34", "5", " o", "'clock", ":\n\n", " ", " x", " =", " [", "1", "];", " "]
        );
    }

    #[test]
    fn empty_text_has_no_pieces() {
        assert!(scanner(2).pieces(b"").unwrap().is_empty());
    }

    #[test]
    fn every_short_string_over_the_telling_characters_agrees_with_the_regex() {
        let alphabet: Vec<char> = " \t\n\r'sSlLvEx7!\u{e9}\u{17f}\u{3000}\u{660}\u{85}".chars().collect();
        let n = alphabet.len();
        for length in 1..=4usize {
            for code in 0..n.pow(length as u32) {
                let text: String = (0..length).map(|place| alphabet[code / n.pow(place as u32) % n]).collect();
                agree(text.as_bytes());
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
                agree(text.as_bytes());
                text.clear();
            }
        }
        agree(text.as_bytes());
    }

    #[test]
    fn every_short_string_of_bytes_agrees_with_the_regex_on_what_lossy_decoding_gives() {
        let alphabet = [b'a', b' ', b'1', b'\n', b'!', 0xC3, 0xA9, 0xE2, 0x80, 0xED, 0xF0, 0x9F, 0xFF];
        let n = alphabet.len();
        let (ours, regex) = (scanner(2), Splitter::with_regex(PATTERN).unwrap());
        for length in 1..=5usize {
            for code in 0..n.pow(length as u32) {
                let text: Vec<u8> = (0..length).map(|place| alphabet[code / n.pow(place as u32) % n]).collect();
                let pieces = ours.pieces(&text).unwrap();
                assert_eq!(pieces.concat(), text);
                let lossy = String::from_utf8_lossy(&text);
                let expected = regex.pieces(lossy.as_bytes()).unwrap();
                let expected: Vec<_> = expected.iter().map(|piece| String::from_utf8_lossy(piece)).collect();
                let found: Vec<_> = pieces.iter().map(|piece| String::from_utf8_lossy(piece)).collect();
                assert_eq!(found, expected, "bytes: {text:x?}");
                assert_eq!(regex.pieces(&text).unwrap(), pieces, "bytes: {text:x?}");
            }
        }
    }

    #[test]
    fn a_safe_cut_changes_no_piece() {
        let text = "One two\nthree\n\n  four\r\nfive; \n\nsix.\nSeven\n'll\n x".as_bytes();
        let splitter = scanner(2);
        let whole = splitter.pieces(text).unwrap();
        let mut cuts = 0;
        let mut end = text.len();
        while let Some(at) = splitter.last_safe_cut(&text[..end], 0) {
            let (left, right) = text.split_at(at);
            let parts = [splitter.pieces(left).unwrap(), splitter.pieces(right).unwrap()].concat();
            assert_eq!(parts, whole);
            cuts += 1;
            end = at;
        }
        assert_eq!(cuts, 4);
        assert_eq!(splitter.last_safe_cut(text, text.len()), None);
        assert_eq!(Splitter::new(r"\w+").unwrap().last_safe_cut(text, 0), None);
    }

    #[test]
    fn a_run_of_space_beyond_the_backtracking_limit_is_one_piece() {
        let text = " ".repeat(3_000_000) + "x";
        let splitter = scanner(2);
        let pieces = splitter.pieces(text.as_bytes()).unwrap();
        assert_eq!(pieces.len(), 2);
        assert_eq!(pieces[0].len(), 2_999_999);
    }

    #[test]
    fn other_patterns_run_by_the_regex_engine() {
        let words = Splitter::new(r"\w+").unwrap();
        assert_eq!(words.pieces(b"ab, cd").unwrap(), [b"ab", b"cd"]);
        assert!(matches!(Splitter::new("("), Err(SplitError::Pattern(_))));
    }
}
