//! Learning merges from counted pieces.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;

use crate::key::{hash_u64, huge_pages, prefetch};
use crate::table::PieceTable;

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

/// Learns up to `wanted` merges: each time the pair with the highest count and, on a tie, the smallest ids.
///
/// Returns fewer when no pair is left. `poll` hears the number of merges before each; its error ends the work.
pub fn learn_merges<E: From<TooLarge>>(
    table: PieceTable,
    wanted: usize,
    mut poll: impl FnMut(usize) -> Result<(), E>,
) -> Result<Vec<Pair>, E> {
    let pieces = Pieces::new(table)?;
    let mut learner = Learner::new(pieces, wanted);
    let mut merges = Vec::new();
    while merges.len() < wanted {
        poll(merges.len())?;
        let Some((pair, positions)) = learner.best() else { break };
        learner.merge(pair, 256 + merges.len() as u32, &positions);
        merges.push(pair);
    }
    Ok(merges)
}

/// Between two pieces.
const EDGE: u32 = u32::MAX;
/// Marks a cell that has been merged into a token further left.
const DEAD: u32 = 1 << 31;

/// All distinct pieces in one array of cells, one cell per byte, with `EDGE` before, between and after them.
///
/// A token lies in the cell of its first byte; its other cells are dead. A token's last cell, if dead, holds the distance to
/// the first, so that neighbours are found in constant time on both sides, with no links.
///
/// Pieces of the same weight, which is how often they occur, lie side by side: a weight then needs no memory of its own.
struct Pieces {
    cells: Vec<u32>,
    runs: Vec<Run>,
    /// The run of the first cell of every `BLOCK` cells.
    run_of_block: Vec<u32>,
    /// Length in bytes by token id.
    length: Vec<u32>,
}

/// Pieces of one weight: their cells go from `start` to the start of the next run.
struct Run {
    start: usize,
    weight: u64,
}

const BLOCK: usize = 64;
/// Pieces rarer than this are put in order by counting, the others by sorting.
const FEW: usize = 1024;

impl Pieces {
    fn new(table: PieceTable) -> Result<Self, TooLarge> {
        let mut total = 1;
        let mut cells_by_weight = [0usize; FEW];
        let mut frequent: Vec<(u64, usize, usize)> = Vec::new();
        let mut frequent_bytes: Vec<u8> = Vec::new();
        table.for_each(|piece, weight| {
            if piece.len() < 2 {
                return; // no pair
            }
            total += piece.len() + 1;
            if (weight as usize) < FEW {
                cells_by_weight[weight as usize] += piece.len() + 1;
            } else {
                frequent.push((weight, frequent_bytes.len(), piece.len()));
                frequent_bytes.extend_from_slice(piece);
            }
        });
        if total >= DEAD as usize - 1 {
            return Err(TooLarge);
        }

        let mut cells = Vec::with_capacity(total);
        huge_pages(&cells);
        cells.push(EDGE);
        let mut runs: Vec<Run> = Vec::new();
        frequent.sort_unstable_by_key(|&(weight, ..)| Reverse(weight));
        for &(weight, start, length) in &frequent {
            if runs.last().is_none_or(|run| run.weight != weight) {
                runs.push(Run { start: cells.len(), weight });
            }
            cells.extend(frequent_bytes[start..start + length].iter().map(|&byte| u32::from(byte)));
            cells.push(EDGE);
        }
        drop((frequent, frequent_bytes));

        let mut next = [0usize; FEW];
        let mut end = cells.len();
        for weight in (1..FEW).rev() {
            next[weight] = end;
            if cells_by_weight[weight] > 0 {
                runs.push(Run { start: end, weight: weight as u64 });
                end += cells_by_weight[weight];
            }
        }
        cells.resize(total, EDGE);
        table.for_each(|piece, weight| {
            if piece.len() < 2 || weight as usize >= FEW {
                return;
            }
            let start = next[weight as usize];
            for (cell, &byte) in cells[start..].iter_mut().zip(piece) {
                *cell = u32::from(byte);
            }
            next[weight as usize] += piece.len() + 1; // the edge is there already
        });

        let mut run_of_block = Vec::with_capacity(total / BLOCK + 1);
        let mut run = 0;
        for start in (0..total).step_by(BLOCK) {
            while runs.get(run + 1).is_some_and(|next| next.start <= start) {
                run += 1;
            }
            run_of_block.push(run as u32);
        }
        runs.push(Run { start: usize::MAX, weight: 0 }); // so that every run has a next one
        Ok(Self { cells, runs, run_of_block, length: vec![1; 256] })
    }

    /// How often the piece around the cell `at` occurs.
    #[inline]
    fn weight_at(&self, at: usize) -> u64 {
        let mut run = self.run_of_block[at / BLOCK] as usize;
        while self.runs[run + 1].start <= at {
            run += 1;
        }
        self.runs[run].weight
    }

    /// Start of the token that ends just before `at`.
    #[inline]
    fn before(&self, at: usize) -> Option<usize> {
        match self.cells[at - 1] {
            EDGE => None,
            cell if cell & DEAD != 0 => Some(at - 1 - (cell & !DEAD) as usize),
            _ => Some(at - 1),
        }
    }

    /// Hands every pair of neighbouring tokens, its position and its weight to `visit`, from front to back.
    fn for_each_pair(&self, mut visit: impl FnMut(Pair, u32, u64)) {
        let mut run = 0;
        let mut at = 1;
        while at < self.cells.len() {
            while self.runs[run + 1].start <= at {
                run += 1;
            }
            let left = self.cells[at];
            if left == EDGE {
                at += 1;
                continue;
            }
            let middle = at + self.length[left as usize] as usize;
            let right = self.cells[middle];
            if right != EDGE {
                visit((left, right), at as u32, self.runs[run].weight);
            }
            at = middle;
        }
    }
}

/// Where a pair occurs and how often, weighted by the counts of the pieces; no count is left once it is merged.
///
/// Overlapping occurrences count: `aaa` holds the pair (a, a) twice. Positions are complete and ascending when a pair is
/// born and are never touched again; those that a later merge has destroyed are recognised when they are used.
#[derive(Default)]
struct Occurrences {
    count: u64,
    positions: Vec<u32>,
}

/// What changes beside the merged pair, by the neighbour's id: weights and numbers of the pairs with it.
#[derive(Default)]
struct Side {
    tallies: Vec<Tally>,
    /// The neighbours met in this merge.
    met: Vec<u32>,
    /// Neighbour and position of each new pair.
    events: Vec<(u32, u32)>,
}

#[derive(Clone, Copy, Default)]
struct Tally {
    weight: u64,
    n: u32,
    /// Where the new pair's occurrences are, or `NOWHERE`.
    index: u32,
}

const NOWHERE: u32 = u32::MAX;

impl Side {
    #[inline]
    fn meet(&mut self, neighbour: u32, position: usize, weight: u64) {
        let tally = &mut self.tallies[neighbour as usize];
        if tally.n == 0 {
            self.met.push(neighbour);
        }
        tally.n += 1;
        tally.weight += weight;
        self.events.push((neighbour, position as u32));
    }
}

/// The state of the training.
///
/// Only pairs with a count of at least `threshold` are followed. A pair's count never rises after the step in which it was
/// born, so no other pair can win while one of these is left; when none is, the threshold is lowered and all pairs are
/// counted anew. Most pairs never come near a merge, and cost neither memory nor time this way.
struct Learner {
    pieces: Pieces,
    threshold: u64,
    index: PairIndex,
    found: Vec<Occurrences>,
    /// Count, pair, place in `found`. An entry that has gone stale is too high, never too low: it comes up early and is put
    /// back with its true count.
    heap: BinaryHeap<(u64, Reverse<Pair>, u32)>,
    left: Side,
    right: Side,
}

impl Learner {
    fn new(pieces: Pieces, wanted: usize) -> Self {
        let mut total = 0;
        // A table of all 65,536 pairs of bytes, and lists of exactly the right size, keep the largest structure small.
        let mut sums = vec![(0u64, 0usize); 1 << 16];
        pieces.for_each_pair(|(left, right), _, weight| {
            let sum = &mut sums[(left << 8 | right) as usize];
            sum.0 += weight;
            sum.1 += 1;
            total += weight;
        });
        let threshold = (total / (RARE * wanted.max(1)) as u64).max(1);
        let mut learner = Self {
            pieces,
            threshold,
            index: PairIndex::default(),
            found: Vec::new(),
            heap: BinaryHeap::new(),
            left: Side { tallies: vec![Tally::default(); 256], ..Side::default() },
            right: Side { tallies: vec![Tally::default(); 256], ..Side::default() },
        };
        let mut places = vec![NOWHERE; 1 << 16];
        for (pair, &(count, n)) in sums.iter().enumerate() {
            if count >= threshold {
                places[pair] = learner.follow((pair as u32 >> 8, pair as u32 & 0xFF), count, n);
            }
        }
        learner.pieces.for_each_pair(|(left, right), position, _| {
            let place = places[(left << 8 | right) as usize];
            if place != NOWHERE {
                learner.found[place as usize].positions.push(position);
            }
        });
        learner
    }

    /// Begins to follow a pair, whose positions will be `n`.
    fn follow(&mut self, pair: Pair, count: u64, n: usize) -> u32 {
        let place = self.found.len() as u32;
        self.found.push(Occurrences { count, positions: Vec::with_capacity(n) });
        self.index.insert(pair, place);
        self.heap.push((count, Reverse(pair), place));
        place
    }

    /// The pair to merge next and its positions, some of which may be gone; None where no pair is left.
    fn best(&mut self) -> Option<(Pair, Vec<u32>)> {
        loop {
            let Some((count, Reverse(pair), place)) = self.heap.pop() else {
                if self.threshold == 1 {
                    return None;
                }
                self.threshold = (self.threshold / FALL).max(1);
                self.count_anew();
                continue;
            };
            let found = &mut self.found[place as usize];
            if found.count == 0 {
                continue;
            }
            if found.count < count {
                self.heap.push((found.count, Reverse(pair), place));
            } else {
                found.count = 0;
                return Some((pair, std::mem::take(&mut found.positions)));
            }
        }
    }

    /// Follows the pairs that reach the threshold, and no others.
    fn count_anew(&mut self) {
        let mut index = PairIndex::default();
        let mut sums: Vec<(Pair, u64, usize)> = Vec::new();
        self.pieces.for_each_pair(|pair, _, weight| {
            let place = index.find(pair).unwrap_or_else(|| {
                index.insert(pair, sums.len() as u32);
                sums.push((pair, 0, 0));
                sums.len() as u32 - 1
            });
            sums[place as usize].1 += weight;
            sums[place as usize].2 += 1;
        });
        drop(index);
        self.index = PairIndex::default();
        self.found = Vec::new();
        for (pair, count, n) in sums {
            if count >= self.threshold {
                self.follow(pair, count, n);
            }
        }
        let (index, found) = (&self.index, &mut self.found);
        self.pieces.for_each_pair(|pair, position, _| {
            if let Some(place) = index.find(pair) {
                found[place as usize].positions.push(position);
            }
        });
    }

    /// Replaces the pair by the token `new` at all its positions, left to right, and brings the counts up to date.
    fn merge(&mut self, (left, right): Pair, new: u32, positions: &[u32]) {
        let pieces = &mut self.pieces;
        let left_length = pieces.length[left as usize] as usize;
        let length = left_length + pieces.length[right as usize] as usize;
        pieces.length.push(length as u32);
        self.left.tallies.push(Tally::default());
        self.right.tallies.push(Tally::default());

        for (i, &start) in positions.iter().enumerate() {
            if let Some(&ahead) = positions.get(i + AHEAD) {
                prefetch(&pieces.cells[ahead as usize]);
            }
            let start = start as usize;
            let middle = start + left_length;
            if pieces.cells[start] != left || pieces.cells[middle] != right {
                continue;
            }
            let end = start + length;
            let weight = pieces.weight_at(start);
            if let Some(before) = pieces.before(start) {
                self.left.meet(pieces.cells[before], before, weight);
            }
            let after = pieces.cells[end];
            if after != EDGE {
                self.right.meet(after, start, weight);
            }
            pieces.cells[start] = new;
            pieces.cells[middle] = DEAD | left_length as u32;
            pieces.cells[end - 1] = DEAD | (length - 1) as u32;
        }

        // Where the pair stood twice in a row, the first new token met `left` on its right, and then lost it.
        let twice = self.left.tallies[new as usize].weight;
        self.right.tallies[left as usize].weight -= twice;

        for i in 0..self.left.met.len() {
            let neighbour = self.left.met[i];
            let weight = self.left.tallies[neighbour as usize].weight;
            if neighbour != new {
                self.lose((neighbour, left), weight);
            }
            let n = self.left.tallies[neighbour as usize].n as usize;
            let place = if weight >= self.threshold { self.follow((neighbour, new), weight, n) } else { NOWHERE };
            self.left.tallies[neighbour as usize].index = place;
        }
        for i in 0..self.right.met.len() {
            let neighbour = self.right.met[i];
            let tally = self.right.tallies[neighbour as usize];
            // The pair with `left` was lost whether or not the new one was too.
            let lost = if neighbour == left { tally.weight + twice } else { tally.weight };
            self.lose((right, neighbour), lost);
            let reached = tally.weight >= self.threshold;
            let place = if reached { self.follow((new, neighbour), tally.weight, tally.n as usize) } else { NOWHERE };
            self.right.tallies[neighbour as usize].index = place;
        }
        for side in [&mut self.left, &mut self.right] {
            for (neighbour, position) in side.events.drain(..) {
                let place = side.tallies[neighbour as usize].index;
                if place != NOWHERE {
                    self.found[place as usize].positions.push(position);
                }
            }
            for neighbour in side.met.drain(..) {
                side.tallies[neighbour as usize] = Tally::default();
            }
        }
    }

    fn lose(&mut self, pair: Pair, weight: u64) {
        if let Some(place) = self.index.find(pair) {
            let found = &mut self.found[place as usize];
            if found.count > 0 {
                found.count -= weight;
                if found.count < self.threshold {
                    *found = Occurrences::default(); // it can't win before all pairs are counted anew
                }
            }
        }
    }
}

/// Pairs below one in this many of the average merge's share aren't followed at first. The last merges of real text are twice
/// as frequent (measured for vocabularies of 32,768 and 65,536 on 10 and 100 MB), so that counting anew is an exception.
const RARE: usize = 64;
/// By what the threshold is divided when no pair is left above it.
const FALL: u64 = 4;
/// How many positions ahead memory is asked for.
const AHEAD: usize = 16;

/// Places in `Learner::found` by pair: open addressing, never removed from.
struct PairIndex {
    /// The pair as one number, or `FREE`.
    keys: Vec<u64>,
    places: Vec<u32>,
    used: usize,
}

const FREE: u64 = u64::MAX;

impl Default for PairIndex {
    fn default() -> Self {
        Self { keys: vec![FREE; 1 << 10], places: vec![0; 1 << 10], used: 0 }
    }
}

impl PairIndex {
    /// Where the pair is, or else the free slot where it belongs.
    #[inline]
    fn slot(&self, (left, right): Pair) -> usize {
        let key = u64::from(left) << 32 | u64::from(right);
        let mask = self.keys.len() - 1;
        let mut at = hash_u64(key) as usize & mask;
        while self.keys[at] != key && self.keys[at] != FREE {
            at = (at + 1) & mask;
        }
        at
    }

    #[inline]
    fn find(&self, pair: Pair) -> Option<u32> {
        let at = self.slot(pair);
        (self.keys[at] != FREE).then(|| self.places[at])
    }

    /// Adds a pair that isn't there yet.
    fn insert(&mut self, pair: Pair, place: u32) {
        let at = self.slot(pair);
        debug_assert!(self.keys[at] == FREE);
        self.keys[at] = u64::from(pair.0) << 32 | u64::from(pair.1);
        self.places[at] = place;
        self.used += 1;
        if self.used * 2 > self.keys.len() {
            let larger = Self { keys: vec![FREE; self.keys.len() * 2], places: vec![0; self.keys.len() * 2], used: 0 };
            let full = std::mem::replace(self, larger);
            for (key, place) in full.keys.into_iter().zip(full.places) {
                if key != FREE {
                    self.insert(((key >> 32) as u32, key as u32), place);
                }
            }
        }
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

    fn table(pieces: &[(&[u8], u64)]) -> PieceTable {
        let mut table = PieceTable::default();
        pieces.iter().for_each(|&(piece, count)| table.add(piece, count));
        table
    }

    fn learn(pieces: &[(&[u8], u64)], wanted: usize) -> Vec<Pair> {
        learn_merges::<Infallible>(table(pieces), wanted, |_| Ok(())).unwrap()
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
            // Weights on both sides of what is sorted by counting, and a threshold that must fall on the way.
            let heaviest = [5, 2000, 1 << 40][below(3) as usize];
            let mut counts = BTreeMap::new();
            for _ in 0..1 + below(8) {
                let length = 1 + below(24);
                let piece: Vec<u8> = (0..length).map(|_| b'a' + below(letters) as u8).collect();
                counts.insert(piece, 1 + below(heaviest));
            }
            let pieces: Vec<(&[u8], u64)> = counts.iter().map(|(piece, &count)| (piece.as_slice(), count)).collect();
            for wanted in [3, 60] {
                assert_eq!(learn(&pieces, wanted), learn_slowly(&pieces, wanted), "seed {seed}");
            }
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
        assert_eq!(learn_merges(table(&[(b"abcdef", 1)]), 5, |_| Err(Ended)), Err(Ended));
    }
}
