// What must hold for any input: shared by the fuzzer and by the test of the inputs that are kept.
//
// The first byte of an input chooses what is checked, the second its parameters, the rest is text.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::OnceLock;

use _rustbpe::count::count_pieces;
use _rustbpe::encode::Encoder;
use _rustbpe::merge::{learn_merges, token_bytes, Pair, TooLarge};
use _rustbpe::split::{SplitError, Splitter, PATTERN};
use _rustbpe::table::PieceTable;
use _rustbpe::vocabulary::{Vocabulary, NONE};

#[derive(Debug)]
struct Failure(#[allow(dead_code)] String);

impl From<SplitError> for Failure {
    fn from(cause: SplitError) -> Self {
        Self(cause.to_string())
    }
}

impl From<TooLarge> for Failure {
    fn from(cause: TooLarge) -> Self {
        Self(cause.to_string())
    }
}

/// Panics where something doesn't hold for `input`. Long inputs are cut, since the references are slow.
pub fn check(input: &[u8]) {
    let [what, parameter, text @ ..] = input else { return };
    match what % 3 {
        0 => check_split(*parameter, &text[..text.len().min(4000)]),
        1 => check_train(*parameter, &text[..text.len().min(600)]),
        _ => check_encode(*parameter, &text[..text.len().min(600)]),
    }
}

fn splitters() -> &'static Vec<(Splitter, Splitter)> {
    static SPLITTERS: OnceLock<Vec<(Splitter, Splitter)>> = OnceLock::new();
    SPLITTERS.get_or_init(|| {
        let patterns = (1..=3).map(|digits| PATTERN.replace("{1,2}", &format!("{{1,{digits}}}")));
        patterns.map(|it| (Splitter::new(&it).unwrap(), Splitter::with_regex(&it).unwrap())).collect()
    })
}

/// The scanner cuts as the regex does, also where the bytes aren't UTF-8, and also after a safe cut.
fn check_split(parameter: u8, text: &[u8]) {
    let (scanner, regex) = &splitters()[parameter as usize % 3];
    let pieces = scanner.pieces(text).unwrap();
    assert_eq!(pieces.concat(), text);
    assert_eq!(pieces, regex.pieces(text).unwrap());
    let lossy = String::from_utf8_lossy(text);
    let expected = regex.pieces(lossy.as_bytes()).unwrap();
    let expected: Vec<_> = expected.into_iter().map(String::from_utf8_lossy).collect();
    let found: Vec<_> = pieces.iter().map(|piece| String::from_utf8_lossy(piece)).collect();
    assert_eq!(found, expected);
    if let Some(cut) = scanner.last_safe_cut(text, parameter as usize) {
        let (left, right) = text.split_at(cut);
        assert_eq!([scanner.pieces(left).unwrap(), scanner.pieces(right).unwrap()].concat(), pieces);
    }
}

/// The merges are those of counting anew for each, with any number of threads.
fn check_train(parameter: u8, text: &[u8]) {
    let (scanner, _) = &splitters()[1];
    // Lines are the texts, so that pieces repeat; some merges leave pairs over, some don't.
    let wanted = [0, 1, 5, 30, 1000][parameter as usize % 5];
    let texts: Vec<&[u8]> = text.split_inclusive(|&byte| byte == b'\n').collect();
    let mut counts = BTreeMap::<Vec<u8>, u64>::new();
    for text in &texts {
        for piece in scanner.pieces(text).unwrap() {
            *counts.entry(piece.to_vec()).or_default() += 1;
        }
    }
    let expected = learn_slowly(&counts, wanted);
    for threads in [1, 1 + parameter as usize % 4] {
        let mut batches = texts.chunks(3).map(<[&[u8]]>::to_vec);
        let table = count_pieces(scanner, threads, || Ok::<_, Failure>(batches.next()), || Ok(())).unwrap();
        assert_eq!(table.len(), counts.len());
        assert_eq!(learn_merges::<Failure>(table, wanted, |_| Ok(())).unwrap(), expected);
    }
    // Weights beyond what is counted here.
    let scale = 1u64 << (parameter % 45);
    let mut table = PieceTable::default();
    counts.iter().for_each(|(piece, count)| table.add(piece, count * scale));
    assert_eq!(learn_merges::<Failure>(table, wanted, |_| Ok(())).unwrap(), expected);
}

fn learn_slowly(counts: &BTreeMap<Vec<u8>, u64>, wanted: usize) -> Vec<Pair> {
    let mut words: Vec<(Vec<u32>, u64)> =
        counts.iter().map(|(piece, &count)| (piece.iter().map(|&byte| u32::from(byte)).collect(), count)).collect();
    let mut merges = Vec::new();
    while merges.len() < wanted {
        let mut pairs = BTreeMap::<Pair, u64>::new();
        for (word, count) in &words {
            for pair in word.windows(2) {
                *pairs.entry((pair[0], pair[1])).or_default() += count;
            }
        }
        let Some((&best, _)) = pairs.iter().max_by_key(|(&pair, &count)| (count, Reverse(pair))) else { break };
        let new = 256 + merges.len() as u32;
        merges.push(best);
        for (word, _) in &mut words {
            let mut at = 0;
            while at + 1 < word.len() {
                if (word[at], word[at + 1]) == best {
                    word[at] = new;
                    word.remove(at + 1);
                }
                at += 1;
            }
        }
    }
    merges
}

/// The ids are those of the rule, decode to the text, and are the same in a batch.
fn check_encode(parameter: u8, text: &[u8]) {
    let tokens = match parameter % 5 {
        0 => return check_ids(lasting_encoder(), &splitters()[1].0, text),
        1 | 2 => trained(text, 50),
        _ => invented(text),
    };
    let scanner = &splitters()[1].0;
    // Every other time the text is one piece, however long.
    let whole = Splitter::new("(?s).+").unwrap();
    let splitter = if parameter % 2 == 0 { scanner } else { &whole };
    check_ids(&Encoder::new(Vocabulary::new(&tokens).unwrap(), splitter.clone()), splitter, text);
}

/// One encoder for all inputs, so that what it remembers fills up and goes again.
fn lasting_encoder() -> &'static Encoder {
    static ENCODER: OnceLock<Encoder> = OnceLock::new();
    ENCODER.get_or_init(|| {
        let tokens = trained(include_bytes!("check.rs"), 1000);
        Encoder::new(Vocabulary::new(&tokens).unwrap(), splitters()[1].0.clone())
    })
}

fn check_ids(encoder: &Encoder, splitter: &Splitter, text: &[u8]) {
    let pieces = splitter.pieces(text).unwrap();
    let expected: Vec<u32> = pieces.iter().flat_map(|piece| encode_slowly(encoder.vocabulary(), piece)).collect();
    for _ in 0..2 {
        let mut ids = Vec::new();
        encoder.encode(text, &mut ids).unwrap();
        assert_eq!(ids, expected);
    }
    let mut bytes = Vec::new();
    encoder.vocabulary().decode(&expected, &mut bytes);
    assert_eq!(bytes, pieces.concat());
    let texts: Vec<&[u8]> = text.split_inclusive(|&byte| byte == b'\n').collect();
    for prefix in [None, Some(7)] {
        let (ids, offsets) = encoder.encode_batch::<_, Failure>(&texts, prefix, 2, || Ok(())).unwrap();
        for (i, text) in texts.iter().enumerate() {
            let mut single = prefix.into_iter().collect();
            encoder.encode(text, &mut single).unwrap();
            assert_eq!(&ids[offsets[i] as usize..offsets[i + 1] as usize], single);
        }
    }
}

fn trained(text: &[u8], merges: usize) -> Vec<Vec<u8>> {
    let mut table = PieceTable::default();
    splitters()[1].0.pieces(text).unwrap().into_iter().for_each(|piece| table.add(piece, 1));
    token_bytes(&learn_merges::<Failure>(table, merges, |_| Ok(())).unwrap())
}

/// Tokens that no training gives: any stretches of the text, in any order, the bytes in reverse.
fn invented(text: &[u8]) -> Vec<Vec<u8>> {
    let mut tokens: Vec<Vec<u8>> = (0..=u8::MAX).rev().map(|byte| vec![byte]).collect();
    for (i, &byte) in text.iter().enumerate().take(80) {
        let start = (i * 37) % text.len();
        let token = &text[start..text.len().min(start + 2 + byte as usize % 20)];
        if token.len() > 1 && !tokens.iter().any(|known| known == token) {
            tokens.push(token.to_vec());
        }
    }
    tokens
}

fn encode_slowly(vocabulary: &Vocabulary, piece: &[u8]) -> Vec<u32> {
    if vocabulary.find(piece) != NONE {
        return vec![vocabulary.find(piece)];
    }
    let mut parts: Vec<Vec<u8>> = piece.iter().map(|&byte| vec![byte]).collect();
    loop {
        let ranks = parts.windows(2).map(|pair| vocabulary.find(&pair.concat()));
        match ranks.enumerate().map(|(at, rank)| (rank, at)).min() {
            None | Some((NONE, _)) => return parts.iter().map(|part| vocabulary.find(part)).collect(),
            Some((_, at)) => {
                let right = parts.remove(at + 1);
                parts[at].extend(right);
            }
        }
    }
}
