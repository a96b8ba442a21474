//! Byte-level BPE training: cut texts into pieces, count the distinct pieces, merge the most frequent pair again and again.
//!
//! The rule is highest count first and, on a tie, the smallest pair of ids; ids 0..256 are the bytes, the n-th merge makes
//! id 256 + n. The result depends on the multiset of pieces alone, so neither the order of the texts nor the number of
//! threads can change it.

pub mod count;
pub mod merge;
pub mod split;

#[cfg(feature = "python")]
mod python;
