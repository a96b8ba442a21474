//! Short pieces as fixed-size keys, hashes of pieces, and memory for large tables.

/// Pieces up to this many bytes fit into a key.
pub const KEY_BYTES: usize = 15;

/// A piece of at most 15 bytes: the bytes, zeros, and the length in the last byte. No key is 0.
pub type Key = u128;

/// The key of `text[start..end]`, which has 1 to 15 bytes.
#[inline(always)]
pub fn key(text: &[u8], start: usize, end: usize) -> Key {
    let length = end - start;
    debug_assert!((1..=KEY_BYTES).contains(&length));
    let block = match text.get(start..start + 16) {
        Some(block) => u128::from_le_bytes(block.try_into().expect("16 bytes")),
        None => {
            let mut block = [0; 16];
            block[..length].copy_from_slice(&text[start..end]);
            u128::from_le_bytes(block)
        }
    };
    let unused = 128 - 8 * length as u32;
    (block << unused >> unused) | (length as u128) << 120
}

/// The bytes of a key.
pub fn key_bytes(key: Key) -> ([u8; 16], usize) {
    (key.to_le_bytes(), (key >> 120) as usize)
}

const ODD_1: u64 = 0x9E37_79B9_7F4A_7C15; // the golden ratio's digits
const ODD_2: u64 = 0xC2B2_AE3D_27D4_EB4F;

/// The two halves of the full product, folded: every bit of both factors reaches every bit that matters.
#[inline(always)]
fn fold(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    product as u64 ^ (product >> 64) as u64
}

/// Tables take a place from the highest bits of a hash.
#[inline(always)]
pub fn hash_key(key: Key) -> u64 {
    fold(key as u64 ^ ODD_1, (key >> 64) as u64 ^ ODD_2)
}

#[inline(always)]
pub fn hash_u64(value: u64) -> u64 {
    fold(value ^ ODD_2, ODD_1)
}

/// The hash of a piece of any length.
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut state = ODD_1.wrapping_mul(bytes.len() as u64 + 1);
    let mut blocks = bytes.chunks_exact(16);
    for block in &mut blocks {
        let (left, right) = block.split_at(8);
        let left = u64::from_le_bytes(left.try_into().expect("8 bytes"));
        let right = u64::from_le_bytes(right.try_into().expect("8 bytes"));
        state = fold(left ^ state, right ^ ODD_2);
    }
    let mut last = [0; 16];
    last[..blocks.remainder().len()].copy_from_slice(blocks.remainder());
    fold(u128::from_le_bytes(last) as u64 ^ state, (u128::from_le_bytes(last) >> 64) as u64 ^ ODD_2)
}

/// Asks for the cache line at `place` ahead of its use.
#[inline(always)]
pub fn prefetch<T>(place: &T) {
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// Asks for huge pages behind the memory of `cells`, which isn't written yet: random access to a large table otherwise waits
/// for the page tables more than for the memory.
pub fn huge_pages<T>(cells: &Vec<T>) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 1 << 21;
        let start = (cells.as_ptr() as usize).next_multiple_of(PAGE);
        let end = (cells.as_ptr() as usize + cells.capacity() * size_of::<T>()) / PAGE * PAGE;
        if end > start {
            // Only advice: it may be refused, and nothing depends on it.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = cells;
}

/// `n` times `value` on huge pages where there are any.
pub fn huge_vec<T: Clone>(value: T, n: usize) -> Vec<T> {
    let mut cells = Vec::with_capacity(n);
    huge_pages(&cells);
    cells.resize(n, value);
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_bytes_and_their_length() {
        let text: Vec<u8> = (0..40u8).map(|i| i.wrapping_mul(7)).collect();
        for start in 0..40 {
            for end in start + 1..(start + 16).min(41) {
                let (bytes, length) = key_bytes(key(&text, start, end));
                assert_eq!(&bytes[..length], &text[start..end]);
            }
        }
        assert_ne!(key(&[0], 0, 1), key(&[0, 0], 0, 2));
    }

    #[test]
    fn long_hashes_see_every_byte_and_the_length() {
        let mut seen = std::collections::HashSet::new();
        for length in 0..100 {
            assert!(seen.insert(hash_bytes(&vec![0; length])));
            for at in 0..length {
                let mut bytes = vec![0; length];
                bytes[at] = 1;
                assert!(seen.insert(hash_bytes(&bytes)));
            }
        }
    }
}
