//! The table that counts distinct pieces.

use crate::key::{hash_bytes, hash_key, huge_pages, key, key_bytes, prefetch, Key, KEY_BYTES};

/// How often each distinct piece occurs, each piece stored once.
///
/// Pieces of up to 15 bytes lie in the slots themselves, longer ones in one arena.
#[derive(Default)]
pub struct PieceTable {
    short: ShortTable,
    long: LongTable,
}

impl PieceTable {
    /// Counts one piece more.
    pub fn add(&mut self, piece: &[u8], count: u64) {
        match piece.len() {
            0 => {}
            1..=KEY_BYTES => {
                let key = key(piece, 0, piece.len());
                self.short.add(key, hash_key(key), count);
            }
            _ => self.long.add(hash_bytes(piece), piece, count),
        }
    }

    /// Number of distinct pieces.
    pub fn len(&self) -> usize {
        self.short.used + self.long.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands every piece and its count to `visit`, in an order of no meaning.
    pub fn for_each(&self, mut visit: impl FnMut(&[u8], u64)) {
        for slot in &self.short.slots {
            if slot.count > 0 {
                let (bytes, length) = key_bytes(slot.key());
                visit(&bytes[..length], slot.count);
            }
        }
        for entry in &self.long.entries {
            visit(self.long.bytes(entry), entry.count);
        }
    }

    /// Adds all counts of another table to this one.
    pub fn absorb(&mut self, other: Self) {
        // Slots lie in the order of their hashes in both tables, so both are walked from front to back.
        self.short.reserve(self.short.used.max(other.short.used));
        for slot in &other.short.slots {
            if slot.count > 0 {
                self.short.add(slot.key(), hash_key(slot.key()), slot.count);
            }
        }
        for entry in &other.long.entries {
            self.long.add(entry.hash, other.long.bytes(entry), entry.count);
        }
    }
}

/// Counts pieces of texts into a table; `finish` brings the last of them there.
///
/// A table beyond the cache makes every piece wait for memory. So pieces wait here, a few dozen at a time, until their
/// slots have been fetched together.
pub struct Counter {
    table: PieceTable,
    waiting: [(Key, u64); WAITING],
    n: usize,
}

const WAITING: usize = 32;

impl Default for Counter {
    fn default() -> Self {
        Self { table: PieceTable::default(), waiting: [(0, 0); WAITING], n: 0 }
    }
}

impl Counter {
    /// Counts `text[start..end]`, which isn't empty.
    #[inline(always)]
    pub fn count(&mut self, text: &[u8], start: usize, end: usize) {
        if end - start <= KEY_BYTES {
            let key = key(text, start, end);
            let hash = hash_key(key);
            prefetch(&self.table.short.slots[self.table.short.place(hash)]);
            self.waiting[self.n] = (key, hash);
            self.n += 1;
            if self.n == WAITING {
                self.flush();
            }
        } else {
            let piece = &text[start..end];
            self.table.long.add(hash_bytes(piece), piece, 1);
        }
    }

    fn flush(&mut self) {
        for &(key, hash) in &self.waiting[..self.n] {
            self.table.short.add(key, hash, 1);
        }
        self.n = 0;
    }

    pub fn finish(mut self) -> PieceTable {
        self.flush();
        self.table
    }
}

/// A slot; unused where the count is 0. The key lies in two halves, since a u128 would make the slot a third larger.
#[derive(Clone, Copy)]
struct Slot {
    low: u64,
    high: u64,
    count: u64,
}

impl Slot {
    #[inline(always)]
    fn key(&self) -> Key {
        u128::from(self.high) << 64 | u128::from(self.low)
    }
}

/// Open addressing with linear probing, in the order of the hashes.
struct ShortTable {
    slots: Vec<Slot>,
    /// A hash, shifted right by this, is a place.
    shift: u32,
    used: usize,
}

impl Default for ShortTable {
    fn default() -> Self {
        Self::with_bits(12)
    }
}

impl ShortTable {
    fn with_bits(bits: u32) -> Self {
        // Zeroed memory comes from the system untouched; `vec!` sees that only for plain numbers.
        let words = vec![0u64; 3 << bits];
        huge_pages(&words);
        let mut words = std::mem::ManuallyDrop::new(words);
        // Same size, same alignment, and every word 0 is a valid slot.
        let slots =
            unsafe { Vec::from_raw_parts(words.as_mut_ptr().cast::<Slot>(), words.len() / 3, words.capacity() / 3) };
        Self { slots, shift: 64 - bits, used: 0 }
    }

    #[inline(always)]
    fn place(&self, hash: u64) -> usize {
        (hash >> self.shift) as usize
    }

    #[inline(always)]
    fn add(&mut self, key: Key, hash: u64, count: u64) {
        let mask = self.slots.len() - 1;
        let mut at = self.place(hash) & mask;
        loop {
            let slot = &mut self.slots[at];
            if slot.count == 0 {
                break;
            }
            if slot.low == key as u64 && slot.high == (key >> 64) as u64 {
                slot.count += count;
                return;
            }
            at = (at + 1) & mask;
        }
        self.slots[at] = Slot { low: key as u64, high: (key >> 64) as u64, count };
        self.used += 1;
        if self.used * 4 > self.slots.len() * 3 {
            self.grow();
        }
    }

    /// Makes room for `more` keys without growing on the way.
    fn reserve(&mut self, n: usize) {
        while n * 4 > self.slots.len() * 3 {
            self.grow();
        }
    }

    #[cold]
    fn grow(&mut self) {
        let mut larger = Self::with_bits(64 - self.shift + 1);
        for slot in &self.slots {
            if slot.count > 0 {
                larger.add(slot.key(), hash_key(slot.key()), slot.count);
            }
        }
        *self = larger;
    }
}

/// Pieces of more than 15 bytes, one after the other in an arena, found through a table of entry numbers.
struct LongTable {
    /// Number of an entry plus 1, or 0.
    slots: Vec<u32>,
    shift: u32,
    entries: Vec<LongEntry>,
    arena: Vec<u8>,
}

struct LongEntry {
    hash: u64,
    count: u64,
    /// Where the piece ends in the arena; it begins where the one before ends.
    end: usize,
    length: usize,
}

impl Default for LongTable {
    fn default() -> Self {
        Self { slots: vec![0; 1 << 8], shift: 64 - 8, entries: Vec::new(), arena: Vec::new() }
    }
}

impl LongTable {
    fn bytes(&self, entry: &LongEntry) -> &[u8] {
        &self.arena[entry.end - entry.length..entry.end]
    }

    fn add(&mut self, hash: u64, piece: &[u8], count: u64) {
        let mask = self.slots.len() - 1;
        let mut at = (hash >> self.shift) as usize & mask;
        while self.slots[at] != 0 {
            let entry = &self.entries[self.slots[at] as usize - 1];
            if entry.hash == hash && self.bytes(entry) == piece {
                self.entries[self.slots[at] as usize - 1].count += count;
                return;
            }
            at = (at + 1) & mask;
        }
        self.arena.extend_from_slice(piece);
        self.entries.push(LongEntry { hash, count, end: self.arena.len(), length: piece.len() });
        self.slots[at] = u32::try_from(self.entries.len()).expect("memory ends before four billion long pieces do");
        if self.entries.len() * 4 > self.slots.len() * 3 {
            self.grow();
        }
    }

    #[cold]
    fn grow(&mut self) {
        let mut slots = vec![0; self.slots.len() * 2];
        self.shift -= 1;
        let mask = slots.len() - 1;
        for (number, entry) in (1..).zip(&self.entries) {
            let mut at = (entry.hash >> self.shift) as usize;
            while slots[at] != 0 {
                at = (at + 1) & mask;
            }
            slots[at] = number;
        }
        self.slots = slots;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn contents(table: &PieceTable) -> BTreeMap<Vec<u8>, u64> {
        let mut found = BTreeMap::new();
        table.for_each(|piece, count| assert!(found.insert(piece.to_vec(), count).is_none()));
        assert_eq!(found.len(), table.len());
        found
    }

    fn word(i: u64) -> Vec<u8> {
        let number = (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32).to_string();
        number.repeat(1 + i as usize % 3).into_bytes()
    }

    #[test]
    fn counts_as_an_ordinary_map_does() {
        let mut counter = Counter::default();
        let mut expected = BTreeMap::new();
        for i in 0..200_000u64 {
            let piece = word(i % 60_000 * (i % 7));
            counter.count(&piece, 0, piece.len());
            *expected.entry(piece).or_insert(0) += 1;
        }
        assert_eq!(contents(&counter.finish()), expected);
    }

    #[test]
    fn absorbing_adds_up() {
        let (mut left, mut right, mut expected) =
            (PieceTable::default(), PieceTable::default(), BTreeMap::<Vec<u8>, u64>::new());
        for i in 0..50_000 {
            left.add(&word(i), i + 1);
            right.add(&word(2 * i), 1 << 40);
            *expected.entry(word(i)).or_default() += i + 1;
            *expected.entry(word(2 * i)).or_default() += 1 << 40;
        }
        left.absorb(right);
        assert_eq!(contents(&left), expected);
        let mut empty = PieceTable::default();
        empty.absorb(left);
        assert_eq!(contents(&empty), expected);
        assert!(PieceTable::default().is_empty());
    }
}
