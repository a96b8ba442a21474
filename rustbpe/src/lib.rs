//! Byte-level BPE: training, and encoding with what was learned.
//!
//! Training cuts texts into pieces, counts the distinct pieces, and merges the most frequent pair again and again. The rule
//! is highest count first and, on a tie, the smallest pair of ids; ids 0..256 are the bytes, the n-th merge makes id 256 + n.
//! The result depends on the multiset of pieces alone, so neither the order of the texts nor the number of threads can
//! change it.

// The fuzzer's checks, which a program outside of the crate includes as well, call it by this name.
#[cfg(test)]
extern crate self as _rustbpe;

mod bpe;
mod cache;
pub mod count;
pub mod encode;
mod key;
pub mod merge;
pub mod split;
pub mod table;
mod unicode;
pub mod vocabulary;

#[cfg(feature = "python")]
mod python;

#[cfg(test)]
mod kept_inputs;
