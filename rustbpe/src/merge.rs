//! Learning merges from counted pieces.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;

use rustc_hash::FxHashMap;

use crate::count::Counts;

/// Ids of a pair of neighbouring tokens.
pub type Pair = (u32, u32);

/// More text than 31-bit positions can tell apart.
#[derive(Debug)]
pub struct TooLarge;

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the distinct pieces of the corpus exceed 2 GiB")
    }
}

impl std::error::Error for TooLarge {}

/// Between two pieces.
const EDGE: u32 = u32::MAX;
/// Marks a cell that has been merged into a token further left.
const DEAD: u32 = 1 << 31;

/// All distinct pieces in one array of cells, one cell per byte, with `EDGE` before, between and after them.
///
/// A token lies in the cell of its first byte; its other cells are dead. A token's last cell, if dead, holds the distance to
/// the first, so that neighbours are found in constant time on both sides, with no links.
struct Pieces {
    cells: Vec<u32>,
    /// Index of the piece that a cell belongs to.
    piece: Vec<u32>,
    /// How often a piece occurs.
    weight: Vec<u64>,
    /// Length in bytes by token id.
    length: Vec<u32>,
}

impl Pieces {
    fn new(counts: Counts) -> Result<Self, TooLarge> {
        // A piece of one byte has no pair.
        let total: usize = counts.keys().filter(|piece| piece.len() > 1).map(|piece| piece.len() + 1).sum();
        if total >= DEAD as usize - 1 {
            return Err(TooLarge);
        }
        let mut pieces = Self {
            cells: Vec::with_capacity(total + 1),
            piece: Vec::with_capacity(total + 1),
            weight: Vec::new(),
            length: vec![1; 256],
        };
        pieces.cells.push(EDGE);
        pieces.piece.push(0);
        for (piece, count) in counts {
            if piece.len() < 2 {
                continue;
            }
            pieces.cells.extend(piece.iter().map(|&byte| u32::from(byte)));
            pieces.cells.push(EDGE);
            pieces.piece.resize(pieces.cells.len(), pieces.weight.len() as u32);
            pieces.weight.push(count);
        }
        Ok(pieces)
    }

    fn weight_at(&self, at: usize) -> u64 {
        self.weight[self.piece[at] as usize]
    }

    /// Start of the token that ends just before `at`.
    fn before(&self, at: usize) -> Option<usize> {
        let last = at - 1;
        match self.cells[last] {
            EDGE => None,
            cell if cell & DEAD != 0 => Some(last - (cell & !DEAD) as usize),
            _ => Some(last),
        }
    }
}

/// Where a pair occurs and how often, weighted by the counts of the pieces.
///
/// Overlapping occurrences count: `aaa` holds the pair (a, a) twice. Positions are complete and ascending when a pair is
/// born and are never touched again; those that a later merge has destroyed are recognised when they are used.
#[derive(Default)]
struct Occurrences {
    count: u64,
    positions: Vec<u32>,
}

/// Learns up to `wanted` merges: each time the pair with the highest count and, on a tie, the smallest ids.
///
/// Returns fewer when no pair is left. `poll` is called before every merge; its error ends the work.
pub fn learn_merges<E: From<TooLarge>>(
    counts: Counts,
    wanted: usize,
    mut poll: impl FnMut() -> Result<(), E>,
) -> Result<Vec<Pair>, E> {
    let mut pieces = Pieces::new(counts)?;
    let mut pairs = byte_pairs(&pieces);
    // A pair's count only falls after the step in which it was born, so an entry that has gone stale is too high, never too
    // low: it comes up early and is put back with its true count.
    let mut heap: BinaryHeap<(u64, Reverse<Pair>)> =
        pairs.iter().map(|(&pair, found)| (found.count, Reverse(pair))).collect();
    let mut merges = Vec::new();
    let mut born = FxHashMap::default();

    while merges.len() < wanted {
        poll()?;
        let Some((count, Reverse(pair))) = heap.pop() else {
            break;
        };
        let Some(found) = pairs.get(&pair) else {
            continue;
        };
        if found.count < count {
            heap.push((found.count, Reverse(pair)));
            continue;
        }
        let found = pairs.remove(&pair).expect("it was just found");
        let new = 256 + merges.len() as u32;
        merges.push(pair);
        merge_pair(&mut pieces, &mut pairs, &mut born, pair, new, &found.positions);
        for (pair, mut found) in born.drain() {
            if found.count > 0 {
                found.positions.shrink_to_fit();
                heap.push((found.count, Reverse(pair)));
                pairs.insert(pair, found);
            }
        }
    }
    Ok(merges)
}

/// The occurrences of all pairs of bytes.
fn byte_pairs(pieces: &Pieces) -> FxHashMap<Pair, Occurrences> {
    let neighbours = || {
        pieces.cells.windows(2).enumerate().filter_map(|(at, cells)| match *cells {
            [EDGE, _] | [_, EDGE] => None,
            [left, right] => Some((at, (left << 8 | right) as usize)),
            _ => unreachable!("windows of two"),
        })
    };
    // A table of all 65,536 pairs, and lists of exactly the right size, keep the largest structure of the training small.
    let mut lengths = vec![0usize; 1 << 16];
    for (_, pair) in neighbours() {
        lengths[pair] += 1;
    }
    let mut table: Vec<Occurrences> =
        lengths.iter().map(|&length| Occurrences { count: 0, positions: Vec::with_capacity(length) }).collect();
    for (at, pair) in neighbours() {
        table[pair].count += pieces.weight_at(at);
        table[pair].positions.push(at as u32);
    }
    table
        .into_iter()
        .enumerate()
        .filter(|(_, found)| found.count > 0)
        .map(|(pair, found)| ((pair as u32 >> 8, pair as u32 & 0xFF), found))
        .collect()
}

/// Replaces the pair by the token `new` at all its positions, left to right, and brings the counts up to date.
///
/// Pairs with `new` in them are left in `born`; `pairs` must no longer hold the merged pair itself.
fn merge_pair(
    pieces: &mut Pieces,
    pairs: &mut FxHashMap<Pair, Occurrences>,
    born: &mut FxHashMap<Pair, Occurrences>,
    (left, right): Pair,
    new: u32,
    positions: &[u32],
) {
    let left_length = pieces.length[left as usize] as usize;
    let length = left_length + pieces.length[right as usize] as usize;
    pieces.length.push(length as u32);

    let mut lose = |born: &mut FxHashMap<Pair, Occurrences>, pair: Pair, weight: u64| {
        if pair.0 == new || pair.1 == new {
            born.get_mut(&pair).expect("born in this step").count -= weight;
        } else if let Some(found) = pairs.get_mut(&pair) {
            found.count -= weight;
            if found.count == 0 {
                pairs.remove(&pair);
            }
        }
        // Else it is the merged pair itself, overlapping (aaa), which is gone from the table.
    };
    fn gain(born: &mut FxHashMap<Pair, Occurrences>, pair: Pair, at: usize, weight: u64) {
        let found = born.entry(pair).or_default();
        found.count += weight;
        found.positions.push(at as u32);
    }

    for &start in positions {
        let start = start as usize;
        let middle = start + left_length;
        if pieces.cells[start] != left || pieces.cells[middle] != right {
            continue;
        }
        let end = start + length;
        let weight = pieces.weight_at(start);
        if let Some(before) = pieces.before(start) {
            let neighbour = pieces.cells[before];
            lose(born, (neighbour, left), weight);
            gain(born, (neighbour, new), before, weight);
        }
        let neighbour = pieces.cells[end];
        if neighbour != EDGE {
            lose(born, (right, neighbour), weight);
            gain(born, (new, neighbour), start, weight);
        }
        pieces.cells[start] = new;
        pieces.cells[middle] = DEAD | left_length as u32;
        pieces.cells[end - 1] = DEAD | (length - 1) as u32;
    }
}

/// The bytes of every token: the 256 single bytes, then one token per merge.
pub fn token_bytes(merges: &[Pair]) -> Vec<Vec<u8>> {
    let mut tokens: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).collect();
    for &(left, right) in merges {
        tokens.push([tokens[left as usize].as_slice(), &tokens[right as usize]].concat());
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    impl From<TooLarge> for Infallible {
        fn from(_: TooLarge) -> Self {
            unreachable!("tests are small")
        }
    }

    fn learn(pieces: &[(&[u8], u64)], wanted: usize) -> Vec<Pair> {
        let counts = pieces.iter().map(|&(piece, count)| (piece.into(), count)).collect();
        learn_merges::<Infallible>(counts, wanted, || Ok(())).unwrap()
    }

    /// The rule, word for word: count all pairs anew, take the best, replace it everywhere.
    fn learn_slowly(pieces: &[(&[u8], u64)], wanted: usize) -> Vec<Pair> {
        let mut words: Vec<(Vec<u32>, u64)> =
            pieces.iter().map(|&(piece, count)| (piece.iter().map(|&byte| byte.into()).collect(), count)).collect();
        let mut merges = Vec::new();
        while merges.len() < wanted {
            let mut counts = BTreeMap::<Pair, u64>::new();
            for (word, count) in &words {
                for pair in word.windows(2) {
                    *counts.entry((pair[0], pair[1])).or_default() += count;
                }
            }
            let Some((&best, _)) = counts.iter().max_by_key(|(&pair, &count)| (count, Reverse(pair))) else {
                break;
            };
            let new = 256 + merges.len() as u32;
            merges.push(best);
            for (word, _) in &mut words {
                let mut merged = Vec::new();
                let mut at = 0;
                while at < word.len() {
                    if at + 1 < word.len() && (word[at], word[at + 1]) == best {
                        merged.push(new);
                        at += 2;
                    } else {
                        merged.push(word[at]);
                        at += 1;
                    }
                }
                *word = merged;
            }
        }
        merges
    }

    /// A few numbers from a fixed linear congruential sequence (constants of Knuth's MMIX).
    fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed;
        move |below| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        }
    }

    #[test]
    fn a_tie_goes_to_the_smallest_ids() {
        assert_eq!(learn(&[(b"cd", 3), (b"ab", 3), (b"ax", 2)], 2), [(97, 98), (99, 100)]);
    }

    #[test]
    fn overlapping_pairs_merge_from_the_left() {
        let merges = learn(&[(b"aaaaa", 1)], 9);
        assert_eq!(merges, [(97, 97), (256, 97), (256, 257)]);
        let tokens = token_bytes(&merges);
        assert_eq!(tokens.last().unwrap(), b"aaaaa");
    }

    #[test]
    fn fewer_merges_when_nothing_is_left() {
        assert!(learn(&[], 5).is_empty());
        assert!(learn(&[(b"a", 7)], 5).is_empty());
        assert_eq!(learn(&[(b"abc", 1)], 5).len(), 2);
    }

    #[test]
    fn counts_beyond_32_bits_keep_their_order() {
        let many = 1u64 << 33;
        assert_eq!(learn(&[(b"ab", many), (b"cd", many + 1)], 1), [(99, 100)]);
    }

    #[test]
    fn agrees_with_counting_anew_on_random_pieces() {
        for seed in 0..3000 {
            let mut below = numbers(seed);
            let letters = 1 + below(4);
            let mut counts = BTreeMap::new();
            for _ in 0..1 + below(8) {
                let length = 1 + below(24);
                let piece: Vec<u8> = (0..length).map(|_| b'a' + below(letters) as u8).collect();
                counts.insert(piece, 1 + below(5));
            }
            let pieces: Vec<(&[u8], u64)> = counts.iter().map(|(piece, &count)| (piece.as_slice(), count)).collect();
            assert_eq!(learn(&pieces, 60), learn_slowly(&pieces, 60), "seed {seed}");
        }
    }

    #[test]
    fn no_two_tokens_have_the_same_bytes() {
        for seed in 0..300 {
            let mut below = numbers(seed);
            let piece: Vec<u8> = (0..400).map(|_| b'a' + below(2) as u8).collect();
            let mut tokens = token_bytes(&learn(&[(&piece, 1)], 400));
            let all = tokens.len();
            tokens.sort();
            tokens.dedup();
            assert_eq!(tokens.len(), all, "seed {seed}");
        }
    }

    #[test]
    fn one_piece_of_many_bytes_takes_linear_steps() {
        // A quadratic trainer would need 10^13 steps here.
        let mut below = numbers(1);
        let piece: Vec<u8> = (0..3_000_000).map(|_| b'a' + below(3) as u8).collect();
        assert_eq!(learn(&[(&piece, 1)], 300).len(), 300);
        let run = vec![b'a'; 3_000_000];
        assert_eq!(learn(&[(&run, 1)], 20).len(), 20);
    }

    #[test]
    fn the_host_can_end_the_work() {
        #[derive(Debug, PartialEq)]
        struct Ended;
        impl From<TooLarge> for Ended {
            fn from(_: TooLarge) -> Self {
                Self
            }
        }
        let counts = [(b"abcdef".as_slice().into(), 1)].into_iter().collect();
        assert_eq!(learn_merges(counts, 5, || Err(Ended)), Err(Ended));
    }
}
