//! The inner loop of encoding, with what it remembers of the pieces that it has met.

use crate::bpe::merge_piece;
use crate::key::{hash_bytes, hash_key, huge_vec, key, prefetch, Key, KEY_BYTES};
use crate::split::{SplitError, Splitter};
use crate::vocabulary::{Vocabulary, NONE};

/// Ids of pieces met lately. Of bounded size, and the result of encoding doesn't depend on what it holds.
pub struct Cache {
    lines: Vec<Line>,
    /// A hash, shifted right by this, is the number of a line.
    shift: u32,
    /// Short pieces that were put in since the lines last grew in number or were emptied.
    put: usize,
    /// Ids of short pieces that have more than three.
    many: Vec<u32>,
    /// Short pieces that weren't there, among those that waited last.
    missed: usize,
    long: LongPieces,
    waiting: Vec<Waiting>,
}

/// Two pieces in one cache line, the one used later first.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line {
    keys: [Key; 2],
    /// Up to three ids, then how many; or `MANY`, with where they begin and how many they are in front.
    values: [[u32; 4]; 2],
}

/// Numbers of lines: 64 KiB at first, for short texts; 16 MiB at most, which hold the pieces of some 50 MB of varied text.
const FIRST_BITS: u32 = 10;
const LAST_BITS: u32 = 18;
const EMPTY: Line = Line { keys: [0; 2], values: [[0; 4]; 2] };
const MANY: u32 = u32::MAX;
const MOST_MANY: usize = 1 << 20;

/// A piece whose line is on its way; `key` is 0 for a long one.
#[derive(Clone, Copy)]
struct Waiting {
    key: Key,
    hash: u64,
    start: usize,
    end: usize,
}

const WAITING: usize = 32;
/// Where more of those that waited were missed, looking through the next ones for what has to be fetched pays.
const FEW_MISSED: usize = 1;

impl Cache {
    pub fn new() -> Self {
        Self {
            lines: vec![EMPTY; 1 << FIRST_BITS],
            shift: 64 - FIRST_BITS,
            put: 0,
            many: Vec::new(),
            missed: 0,
            long: LongPieces::new(),
            waiting: Vec::with_capacity(WAITING),
        }
    }

    /// Appends the ids of `text` to `ids`.
    pub fn encode(
        &mut self,
        vocabulary: &Vocabulary,
        splitter: &Splitter,
        text: &[u8],
        ids: &mut Vec<u32>,
    ) -> Result<(), SplitError> {
        self.waiting.clear();
        splitter.for_each_piece(text, |start, end| {
            let waiting = if end - start <= KEY_BYTES {
                let key = key(text, start, end);
                let hash = hash_key(key);
                prefetch(&self.lines[(hash >> self.shift) as usize]);
                Waiting { key, hash, start, end }
            } else {
                Waiting { key: 0, hash: 0, start, end }
            };
            self.waiting.push(waiting);
            if self.waiting.len() == WAITING {
                self.flush(vocabulary, text, ids);
            }
            true
        })?;
        self.flush(vocabulary, text, ids);
        Ok(())
    }

    fn flush(&mut self, vocabulary: &Vocabulary, text: &[u8], ids: &mut Vec<u32>) {
        // Four ids are written for every piece, used or not.
        ids.reserve(4 * WAITING);
        if self.missed > FEW_MISSED {
            for &Waiting { key, hash, .. } in &self.waiting {
                if key != 0 && !self.lines[(hash >> self.shift) as usize].keys.contains(&key) {
                    vocabulary.prefetch_key(hash);
                }
            }
        }
        self.missed = 0;
        for i in 0..self.waiting.len() {
            let Waiting { key, hash, start, end } = self.waiting[i];
            if key != 0 {
                let line = &mut self.lines[(hash >> self.shift) as usize];
                if line.keys[0] != key && line.keys[1] == key {
                    line.keys.swap(0, 1);
                    line.values.swap(0, 1);
                }
                if line.keys[0] == key {
                    let value = line.values[0];
                    if value[3] != MANY {
                        let n = ids.len();
                        debug_assert!(ids.capacity() >= n + 4);
                        // There is room for all waiting pieces, and `value[3]` of the ids are valid.
                        unsafe {
                            ids.as_mut_ptr().add(n).cast::<[u32; 4]>().write_unaligned(value);
                            ids.set_len(n + value[3] as usize);
                        }
                        continue;
                    }
                    let (first, n) = (value[0] as usize, value[1] as usize);
                    ids.extend_from_slice(&self.many[first..first + n]);
                } else {
                    self.encode_short(vocabulary, key, hash, &text[start..end], ids);
                }
            } else {
                self.long.encode(vocabulary, &text[start..end], ids);
            }
            ids.reserve(4 * WAITING);
        }
        self.waiting.clear();
    }

    #[inline(never)]
    fn encode_short(&mut self, vocabulary: &Vocabulary, key: Key, hash: u64, piece: &[u8], ids: &mut Vec<u32>) {
        let first = ids.len();
        match vocabulary.find_key(key) {
            NONE => merge_piece(vocabulary, piece, ids),
            id => ids.push(id),
        }
        let new = &ids[first..];
        let mut value = [0; 4];
        if new.len() <= 3 {
            value[..new.len()].copy_from_slice(new);
            value[3] = new.len() as u32;
        } else {
            if self.many.len() > MOST_MANY {
                self.many.clear();
                self.lines.fill(EMPTY);
                self.put = 0;
            }
            value = [self.many.len() as u32, new.len() as u32, 0, MANY];
            self.many.extend_from_slice(new);
        }
        let line = &mut self.lines[(hash >> self.shift) as usize];
        line.put(key, value);
        self.put += 1;
        self.missed += 1;
        if self.put > self.lines.len() / 2 && self.shift > 64 - LAST_BITS {
            self.grow();
        }
    }

    #[cold]
    fn grow(&mut self) {
        self.shift -= 1;
        let mut lines = huge_vec(EMPTY, 2 * self.lines.len());
        for line in &self.lines {
            // The older one first, so that it is the older one again.
            for i in [1, 0] {
                if line.keys[i] != 0 {
                    lines[(hash_key(line.keys[i]) >> self.shift) as usize].put(line.keys[i], line.values[i]);
                }
            }
        }
        self.lines = lines;
        self.put = 0;
    }
}

impl Line {
    /// Takes a piece in, and the one used longest ago out.
    fn put(&mut self, key: Key, value: [u32; 4]) {
        self.keys = [key, self.keys[0]];
        self.values = [value, self.values[0]];
    }
}

/// Ids of pieces too long for a key.
struct LongPieces {
    /// Two neighbouring slots are for the same pieces, the one used later first.
    slots: Vec<LongSlot>,
    /// Pieces that were put in since the slots last grew in number.
    put: usize,
    bytes: Vec<u8>,
    ids: Vec<u32>,
}

#[derive(Clone, Copy, Default)]
struct LongSlot {
    hash: u64,
    start: u32,
    first_id: u32,
    length: u16,
    n: u16,
}

/// Numbers of slots at first and at most, 6 KiB and 3 MiB.
const FIRST_LONG: usize = 1 << 8;
const MOST_LONG: usize = 1 << 17;
/// Longer pieces than this don't come again.
const LONGEST: usize = 128;
const MOST_LONG_BYTES: usize = 1 << 22;

impl LongPieces {
    fn new() -> Self {
        Self { slots: vec![LongSlot::default(); FIRST_LONG], put: 0, bytes: Vec::new(), ids: Vec::new() }
    }

    #[inline(never)]
    fn encode(&mut self, vocabulary: &Vocabulary, piece: &[u8], ids: &mut Vec<u32>) {
        if piece.len() > LONGEST {
            return encode_piece(vocabulary, piece, ids);
        }
        let hash = hash_bytes(piece);
        let place = self.place(hash);
        for i in [place, place + 1] {
            let slot = self.slots[i];
            let known = slot.start as usize..slot.start as usize + slot.length as usize;
            if slot.hash == hash && &self.bytes[known] == piece {
                let first = slot.first_id as usize;
                ids.extend_from_slice(&self.ids[first..first + slot.n as usize]);
                self.slots.swap(place, i);
                return;
            }
        }
        let first = ids.len();
        encode_piece(vocabulary, piece, ids);
        if self.bytes.len() > MOST_LONG_BYTES {
            *self = Self::new();
        }
        let new = &ids[first..];
        self.insert(LongSlot {
            hash,
            start: self.bytes.len() as u32,
            first_id: self.ids.len() as u32,
            length: piece.len() as u16,
            n: new.len() as u16,
        });
        self.bytes.extend_from_slice(piece);
        self.ids.extend_from_slice(new);
        self.put += 1;
        if self.put > self.slots.len() / 2 && self.slots.len() < MOST_LONG {
            self.grow();
        }
    }

    /// The first of the two slots of a hash.
    #[inline]
    fn place(&self, hash: u64) -> usize {
        (hash >> (u64::BITS - self.slots.len().trailing_zeros())) as usize & !1
    }

    fn insert(&mut self, slot: LongSlot) {
        let place = self.place(slot.hash);
        self.slots[place + 1] = self.slots[place];
        self.slots[place] = slot;
    }

    #[cold]
    fn grow(&mut self) {
        let larger = vec![LongSlot::default(); 2 * self.slots.len()];
        for two in std::mem::replace(&mut self.slots, larger).chunks_exact(2) {
            // The older one first, so that it is the older one again.
            for slot in two.iter().rev().filter(|slot| slot.length > 0) {
                self.insert(*slot);
            }
        }
        self.put = 0;
    }
}

/// The ids of a piece, remembered nowhere.
fn encode_piece(vocabulary: &Vocabulary, piece: &[u8], ids: &mut Vec<u32>) {
    match vocabulary.find(piece) {
        NONE => merge_piece(vocabulary, piece, ids),
        id => ids.push(id),
    }
}
