//! Merging one piece that is no token by itself.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::vocabulary::{Vocabulary, NONE};

/// Pieces up to this many bytes look at all their pairs again after every merge; that is faster than a heap for so few.
const SHORT: usize = 64;

/// Appends the ids that the bytes of `piece` merge to: the pair with the lowest rank first, the leftmost of equals.
pub fn merge_piece(vocabulary: &Vocabulary, piece: &[u8], ids: &mut Vec<u32>) {
    if piece.len() <= SHORT {
        merge_short(vocabulary, piece, ids);
    } else {
        merge_long(vocabulary, piece, ids);
    }
}

fn merge_short(vocabulary: &Vocabulary, piece: &[u8], ids: &mut Vec<u32>) {
    let mut tokens = [NONE; SHORT];
    // What a token and the next one make.
    let mut ranks = [NONE; SHORT];
    let mut n = piece.len();
    for (token, &byte) in tokens.iter_mut().zip(piece) {
        *token = vocabulary.byte_id(byte);
    }
    for (rank, pair) in ranks.iter_mut().zip(piece.windows(2)) {
        *rank = vocabulary.byte_pair(pair[0], pair[1]);
    }
    while n > 1 {
        let mut best = 0;
        for at in 1..n - 1 {
            if ranks[at] < ranks[best] {
                best = at;
            }
        }
        if ranks[best] == NONE {
            break;
        }
        tokens[best] = ranks[best];
        tokens.copy_within(best + 2..n, best + 1);
        ranks.copy_within(best + 1..n, best);
        n -= 1;
        let last = best + 1 == n;
        if !last {
            vocabulary.prefetch_pair(tokens[best], tokens[best + 1]); // while the other side is looked for
        }
        if best > 0 {
            ranks[best - 1] = vocabulary.pair(tokens[best - 1], tokens[best]);
        }
        ranks[best] = if last { NONE } else { vocabulary.pair(tokens[best], tokens[best + 1]) };
    }
    ids.extend_from_slice(&tokens[..n]);
}

/// The same in time proportional to the length, but for the logarithm of a heap: a megabyte of one letter is a piece too.
fn merge_long(vocabulary: &Vocabulary, piece: &[u8], ids: &mut Vec<u32>) {
    let n = piece.len();
    let mut tokens: Vec<u32> = piece.iter().map(|&byte| vocabulary.byte_id(byte)).collect();
    let mut ranks: Vec<u32> = piece.windows(2).map(|pair| vocabulary.byte_pair(pair[0], pair[1])).collect();
    ranks.push(NONE);
    // Each token's neighbours by position; `n` is beyond the end, and 0 has nothing before it.
    let mut next: Vec<usize> = (1..=n).collect();
    let mut before: Vec<usize> = (0..n).map(|at| at.saturating_sub(1)).collect();
    let mut heap: BinaryHeap<Reverse<(u32, usize)>> =
        ranks.iter().enumerate().filter(|(_, &rank)| rank != NONE).map(|(at, &rank)| Reverse((rank, at))).collect();
    while let Some(Reverse((rank, at))) = heap.pop() {
        if ranks[at] != rank {
            continue; // one of the two has been merged since
        }
        let gone = next[at];
        let after = next[gone];
        tokens[at] = rank;
        ranks[gone] = NONE;
        tokens[gone] = NONE;
        next[at] = after;
        ranks[at] = NONE;
        if after < n {
            before[after] = at;
            ranks[at] = vocabulary.pair(tokens[at], tokens[after]);
            if ranks[at] != NONE {
                heap.push(Reverse((ranks[at], at)));
            }
        }
        if at > 0 {
            let left = before[at];
            ranks[left] = vocabulary.pair(tokens[left], tokens[at]);
            if ranks[left] != NONE {
                heap.push(Reverse((ranks[left], left)));
            }
        }
    }
    ids.extend(tokens.into_iter().filter(|&token| token != NONE));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::tests::bytes_and;

    /// The rule, word for word.
    fn merge_slowly(vocabulary: &Vocabulary, piece: &[u8]) -> Vec<u32> {
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

    #[test]
    fn both_ways_agree_with_the_rule() {
        let mut state = 7u64;
        let mut below = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        for _ in 0..400 {
            // Any set of tokens, whether or not training could give it.
            let letters = 1 + below(3);
            let mut tokens: Vec<String> = Vec::new();
            for _ in 0..below(20) {
                let token: String = (0..2 + below(5)).map(|_| (b'a' + below(letters) as u8) as char).collect();
                if !tokens.contains(&token) {
                    tokens.push(token);
                }
            }
            let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
            let vocabulary = Vocabulary::new(&bytes_and(&tokens)).unwrap();
            for length in [0, 1, 2, 3, 10, 63, 64] {
                let piece: Vec<u8> = (0..length).map(|_| b'a' + below(letters) as u8).collect();
                let expected = merge_slowly(&vocabulary, &piece);
                let (mut short, mut long) = (Vec::new(), Vec::new());
                merge_short(&vocabulary, &piece, &mut short);
                assert_eq!(short, expected);
                if length > 0 {
                    merge_long(&vocabulary, &piece, &mut long);
                    assert_eq!(long, expected);
                }
            }
        }
    }

    #[test]
    fn a_long_piece_does_not_take_quadratic_time() {
        let vocabulary = Vocabulary::new(&bytes_and(&["aa", "aaaa", "aaa"])).unwrap();
        let mut ids = Vec::new();
        merge_piece(&vocabulary, &vec![b'a'; 4_000_001], &mut ids);
        assert_eq!(ids.len(), 1_000_001);
    }
}
