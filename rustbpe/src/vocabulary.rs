//! Tokens by their bytes, by their id, and by the pair that makes them.

use std::fmt;

use rustc_hash::FxHashMap;

use crate::key::{hash_bytes, hash_key, hash_u64, huge_vec, key, prefetch, Key, KEY_BYTES};

/// Tokens that no encoder can be made of.
#[derive(Debug, PartialEq, Eq)]
pub enum VocabularyError {
    Empty(usize),
    Twice(usize, usize),
    NoByte(u8),
    TooMany(usize),
}

impl fmt::Display for VocabularyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty(id) => write!(f, "token {id} is empty"),
            Self::Twice(first, second) => write!(f, "tokens {first} and {second} are the same"),
            Self::NoByte(byte) => write!(f, "no token is the single byte 0x{byte:02x}; all 256 must be there"),
            Self::TooMany(n) => write!(f, "{n} tokens are more than the {MOST_TOKENS} that an encoder holds"),
        }
    }
}

impl std::error::Error for VocabularyError {}

const ID_BITS: u32 = 21;
const ID_MASK: u64 = (1 << ID_BITS) - 1;
/// Three ids fit into one number of 64 bits.
pub const MOST_TOKENS: usize = ID_MASK as usize;
/// No token.
pub const NONE: u32 = u32::MAX;

pub struct Vocabulary {
    /// The bytes of all tokens, one after the other, and where each ends.
    arena: Vec<u8>,
    ends: Vec<usize>,
    byte_ids: [u32; 256],
    /// The token of two bytes, by the bytes.
    byte_pairs: Vec<u32>,
    short: Vec<(Key, u32)>,
    long: Vec<u32>,
    /// Left, right and merged id in one number, or 0.
    pairs: Vec<u64>,
    /// A bit for the hash of each pair. Most pairs that are asked for make no token, and this small table knows nearly all
    /// of those.
    may_pair: Vec<u64>,
}

impl Vocabulary {
    /// A vocabulary of `tokens` in the order of their ids, which is the order in which they are merged.
    pub fn new<T: AsRef<[u8]>>(tokens: &[T]) -> Result<Self, VocabularyError> {
        if tokens.len() > MOST_TOKENS {
            return Err(VocabularyError::TooMany(tokens.len()));
        }
        let slots = (tokens.len() * 2).next_power_of_two();
        let mut vocabulary = Self {
            arena: Vec::with_capacity(tokens.iter().map(|token| token.as_ref().len()).sum()),
            ends: Vec::with_capacity(tokens.len()),
            byte_ids: [NONE; 256],
            byte_pairs: vec![NONE; 1 << 16],
            short: huge_vec((0, 0), slots),
            long: vec![NONE; slots],
            pairs: Vec::new(),
            may_pair: Vec::new(),
        };
        for (id, token) in tokens.iter().enumerate() {
            vocabulary.add(id as u32, token.as_ref())?;
        }
        if let Some(byte) = (0..=u8::MAX).find(|&byte| vocabulary.byte_ids[byte as usize] == NONE) {
            return Err(VocabularyError::NoByte(byte));
        }
        vocabulary.add_pairs();
        Ok(vocabulary)
    }

    /// Tokens that are only decoded: they may be any bytes.
    pub fn for_decoding<'t>(tokens: impl Iterator<Item = &'t [u8]>) -> Self {
        let (mut arena, mut ends) = (Vec::new(), Vec::new());
        for token in tokens {
            arena.extend_from_slice(token);
            ends.push(arena.len());
        }
        let none = || vec![NONE; 1 << 16];
        Self {
            arena,
            ends,
            byte_ids: [NONE; 256],
            byte_pairs: none(),
            short: vec![(0, 0)],
            long: vec![NONE],
            pairs: vec![0],
            may_pair: vec![0],
        }
    }

    fn add(&mut self, id: u32, token: &[u8]) -> Result<(), VocabularyError> {
        let known = self.find(token);
        if known != NONE {
            return Err(VocabularyError::Twice(known as usize, id as usize));
        }
        self.arena.extend_from_slice(token);
        self.ends.push(self.arena.len());
        match *token {
            [] => return Err(VocabularyError::Empty(id as usize)),
            [byte] => self.byte_ids[byte as usize] = id,
            [first, second] => self.byte_pairs[usize::from(first) << 8 | usize::from(second)] = id,
            _ => {}
        }
        let mask = self.short.len() - 1;
        if token.len() <= KEY_BYTES {
            let key = key(token, 0, token.len());
            let mut at = hash_key(key) as usize & mask;
            while self.short[at].0 != 0 {
                at = (at + 1) & mask;
            }
            self.short[at] = (key, id);
        } else {
            let mut at = hash_bytes(token) as usize & mask;
            while self.long[at] != NONE {
                at = (at + 1) & mask;
            }
            self.long[at] = id;
        }
        Ok(())
    }

    /// All pairs of tokens whose bytes together are a token, not only the one that training merged: any of them may meet.
    fn add_pairs(&mut self) {
        // A rolling hash of every token finds the two halves of all cuts in time linear in the tokens' length.
        let mut ids: FxHashMap<(u64, usize), u32> = FxHashMap::default();
        let mut hashes = vec![0];
        for id in 0..self.len() {
            let hash = self.bytes(id as u32).iter().fold(0, |hash, &byte| rolled(hash, byte));
            ids.insert((hash, self.bytes(id as u32).len()), id as u32);
        }
        let mut found: Vec<(u32, u32, u32)> = Vec::new();
        let mut powers = vec![1];
        for id in 0..self.len() as u32 {
            let token = self.bytes(id);
            hashes.truncate(1);
            for (i, &byte) in token.iter().enumerate() {
                hashes.push(rolled(hashes[i], byte));
                if powers.len() == i + 1 {
                    powers.push(multiply(powers[i], BASE));
                }
            }
            let n = token.len();
            for cut in 1..n {
                let Some(&left) = ids.get(&(hashes[cut], cut)) else { continue };
                let rest = (hashes[n] + PRIME - multiply(hashes[cut], powers[n - cut])) % PRIME;
                let Some(&right) = ids.get(&(rest, n - cut)) else { continue };
                if self.bytes(left) == &token[..cut] && self.bytes(right) == &token[cut..] {
                    found.push((left, right, id));
                }
            }
        }
        self.pairs = huge_vec(0, (found.len() * 2).next_power_of_two().max(2));
        self.may_pair = vec![0; (found.len() * 8 / 64).next_power_of_two()];
        let mask = self.pairs.len() - 1;
        for (left, right, id) in found {
            let pair = packed(left, right);
            let (word, bit) = self.may_pair_bit(hash_u64(pair));
            self.may_pair[word] |= bit;
            let mut at = hash_u64(pair) as usize & mask;
            while self.pairs[at] != 0 {
                at = (at + 1) & mask;
            }
            // Never 0, as no token is made of itself.
            self.pairs[at] = pair << ID_BITS | u64::from(id);
        }
    }

    fn may_pair_bit(&self, hash: u64) -> (usize, u64) {
        // Other bits of the hash than those that find the slot.
        ((hash >> 32) as usize & (self.may_pair.len() - 1), 1 << (hash >> 26 & 63))
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    #[inline]
    pub fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.arena[start..self.ends[id]]
    }

    /// Appends the bytes of tokens that exist.
    pub fn decode(&self, ids: &[u32], bytes: &mut Vec<u8>) {
        let length: usize = ids.iter().map(|&id| self.bytes(id).len()).sum();
        bytes.reserve(length + 16);
        for &id in ids {
            let start = if id == 0 { 0 } else { self.ends[id as usize - 1] };
            let n = self.ends[id as usize] - start;
            match self.arena.get(start..start + 16) {
                Some(block) if n <= 16 => {
                    let end = bytes.len();
                    // 16 bytes are copied faster than `n` are; the room for them was reserved, and `n` of them count.
                    unsafe {
                        std::ptr::copy_nonoverlapping(block.as_ptr(), bytes.as_mut_ptr().add(end), 16);
                        bytes.set_len(end + n);
                    }
                }
                _ => bytes.extend_from_slice(&self.arena[start..start + n]),
            }
        }
    }

    /// The id of a token by its bytes, or NONE.
    pub fn find(&self, token: &[u8]) -> u32 {
        let mask = self.short.len() - 1;
        match token.len() {
            0 => NONE,
            1..=KEY_BYTES => self.find_key(key(token, 0, token.len())),
            _ => {
                let mut at = hash_bytes(token) as usize & mask;
                while self.long[at] != NONE && self.bytes(self.long[at]) != token {
                    at = (at + 1) & mask;
                }
                self.long[at]
            }
        }
    }

    #[inline]
    pub fn find_key(&self, key: Key) -> u32 {
        let mask = self.short.len() - 1;
        let mut at = hash_key(key) as usize & mask;
        loop {
            let (found, id) = self.short[at];
            if found == key {
                return id;
            }
            if found == 0 {
                return NONE;
            }
            at = (at + 1) & mask;
        }
    }

    #[inline]
    pub fn byte_id(&self, byte: u8) -> u32 {
        self.byte_ids[byte as usize]
    }

    /// The token of two bytes, or NONE.
    #[inline]
    pub fn byte_pair(&self, left: u8, right: u8) -> u32 {
        self.byte_pairs[usize::from(left) << 8 | usize::from(right)]
    }

    /// Asks for what `find_key` will look at.
    #[inline]
    pub fn prefetch_key(&self, hash: u64) {
        prefetch(&self.short[hash as usize & (self.short.len() - 1)]);
    }

    /// Asks for what `pair` will look at.
    #[inline]
    pub fn prefetch_pair(&self, left: u32, right: u32) {
        let hash = hash_u64(packed(left, right));
        let (word, bit) = self.may_pair_bit(hash);
        if self.may_pair[word] & bit != 0 {
            prefetch(&self.pairs[hash as usize & (self.pairs.len() - 1)]);
        }
    }

    /// The token that two tokens make, or NONE.
    #[inline]
    pub fn pair(&self, left: u32, right: u32) -> u32 {
        let pair = packed(left, right);
        let hash = hash_u64(pair);
        let (word, bit) = self.may_pair_bit(hash);
        if self.may_pair[word] & bit == 0 {
            return NONE;
        }
        let mask = self.pairs.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.pairs[at];
            if slot >> ID_BITS == pair && slot != 0 {
                return (slot & ID_MASK) as u32;
            }
            if slot == 0 {
                return NONE;
            }
            at = (at + 1) & mask;
        }
    }
}

fn packed(left: u32, right: u32) -> u64 {
    u64::from(left) << ID_BITS | u64::from(right)
}

/// A Mersenne prime and any large base below it.
const PRIME: u64 = (1 << 61) - 1;
const BASE: u64 = 0x1B87_3593_CC9E_2D51 % PRIME;

fn multiply(left: u64, right: u64) -> u64 {
    (u128::from(left) * u128::from(right) % u128::from(PRIME)) as u64
}

fn rolled(hash: u64, byte: u8) -> u64 {
    (multiply(hash, BASE) + u64::from(byte) + 1) % PRIME
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn bytes_and(more: &[&str]) -> Vec<Vec<u8>> {
        let more = more.iter().map(|token| token.as_bytes().to_vec());
        (0..=u8::MAX).map(|byte| vec![byte]).chain(more).collect()
    }

    #[test]
    fn finds_tokens_and_all_pairs_that_make_them() {
        let long = "abcdefghijklmnopqrstuvwxyz";
        let vocabulary = Vocabulary::new(&bytes_and(&["ab", "bc", "abc", long, &long[3..]])).unwrap();
        assert_eq!(vocabulary.find(b"abc"), 258);
        assert_eq!(vocabulary.find(long.as_bytes()), 259);
        assert_eq!(vocabulary.find(b"abd"), NONE);
        assert_eq!(vocabulary.find(&long.as_bytes()[1..]), NONE);
        assert_eq!(vocabulary.find(b""), NONE);
        let (a, c) = (u32::from(b'a'), u32::from(b'c'));
        assert_eq!(vocabulary.pair(256, c), 258);
        assert_eq!(vocabulary.pair(a, 257), 258);
        assert_eq!(vocabulary.pair(258, 260), 259);
        assert_eq!(vocabulary.pair(a, c), NONE);
        assert_eq!(vocabulary.byte_pair(b'b', b'c'), 257);
        assert_eq!(vocabulary.pair(0, 0), NONE);
    }

    #[test]
    fn refuses_what_cannot_encode() {
        let refuse = |tokens: &[Vec<u8>]| Vocabulary::new(tokens).err();
        assert_eq!(refuse(&bytes_and(&["ab", ""])), Some(VocabularyError::Empty(257)));
        assert_eq!(refuse(&bytes_and(&["ab", "cd", "ab"])), Some(VocabularyError::Twice(256, 258)));
        assert_eq!(refuse(&bytes_and(&[])[..200]), Some(VocabularyError::NoByte(200)));
        let mut tokens = bytes_and(&[]);
        tokens.swap(7, 200);
        assert_eq!(Vocabulary::new(&tokens).unwrap().byte_id(7), 200);
    }

    #[test]
    fn very_long_tokens_take_linear_time() {
        let tokens: Vec<String> = (1..20).map(|i| "a".repeat(1 << i)).collect();
        let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
        let vocabulary = Vocabulary::new(&bytes_and(&tokens)).unwrap();
        assert_eq!(vocabulary.pair(272, 272), 273);
    }
}
