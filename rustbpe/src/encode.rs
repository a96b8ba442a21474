//! Text into ids, and back.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;

use crossbeam_channel::{bounded, RecvTimeoutError};

use crate::cache::Cache;
use crate::count::POLL_EVERY;
use crate::key::huge_pages;
use crate::split::{SplitError, Splitter};
use crate::vocabulary::Vocabulary;

/// Encodes text with one vocabulary and one split pattern. Any number of threads may use it at once.
///
/// A piece that is a token by itself becomes that token, whatever its parts would merge to; so does tiktoken.
pub struct Encoder {
    vocabulary: Vocabulary,
    splitter: Splitter,
    /// What encoding has remembered, for every call that runs at the same time.
    caches: Mutex<Vec<Cache>>,
}

const MOST_CACHES: usize = 64;
/// Texts are handed to threads in parts of about this many bytes.
const PART_BYTES: usize = 1 << 18;

/// A text, or a stretch of one.
struct Stretch {
    text: usize,
    start: usize,
    end: usize,
}

/// The ids of some consecutive stretches, and how many each has.
struct Encoded {
    ids: Vec<u32>,
    lengths: Vec<usize>,
}

impl Encoder {
    pub fn new(vocabulary: Vocabulary, splitter: Splitter) -> Self {
        Self { vocabulary, splitter, caches: Mutex::default() }
    }

    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Appends the ids of `text` to `ids`.
    pub fn encode(&self, text: &[u8], ids: &mut Vec<u32>) -> Result<(), SplitError> {
        self.with_cache(|cache, splitter| cache.encode(&self.vocabulary, splitter, text, ids))
    }

    fn with_cache<R>(&self, work: impl FnOnce(&mut Cache, &Splitter) -> R) -> R {
        // Never waits: in a process that was forked while the lock was held, it stays locked for good.
        let kept = self.caches.try_lock().ok().and_then(|mut caches| caches.pop());
        let mut cache = kept.unwrap_or_else(Cache::new);
        let result = work(&mut cache, &self.splitter);
        if let Ok(mut caches) = self.caches.try_lock() {
            if caches.len() < MOST_CACHES {
                caches.push(cache);
            }
        }
        result
    }

    /// The ids of all texts in one array, each text after the id `prefix` if there is one, and where each text begins in it
    /// and the last one ends.
    ///
    /// Nothing depends on `threads`. `poll` runs on the calling thread every few dozen milliseconds; its error ends the work.
    pub fn encode_batch<T: AsRef<[u8]> + Sync, E: From<SplitError>>(
        &self,
        texts: &[T],
        prefix: Option<u32>,
        threads: usize,
        poll: impl FnMut() -> Result<(), E>,
    ) -> Result<(Vec<u32>, Vec<i64>), E> {
        let stretches = self.stretches(texts);
        let parts = parts(&stretches);
        let threads = threads.min(parts.len()).max(1);
        let encoded = self.encode_parts(texts, &parts, prefix, threads, poll)?;

        let mut offsets = vec![0; texts.len() + 1];
        for (stretch, &length) in stretches.iter().zip(encoded.iter().flat_map(|part| &part.lengths)) {
            offsets[stretch.text + 1] += length as i64;
        }
        for i in 0..texts.len() {
            offsets[i + 1] += offsets[i];
        }
        Ok((concatenate(encoded, threads), offsets))
    }

    /// All texts in order, long ones in stretches that can be encoded apart.
    fn stretches<T: AsRef<[u8]>>(&self, texts: &[T]) -> Vec<Stretch> {
        let mut stretches = Vec::with_capacity(texts.len());
        for (number, text) in texts.iter().enumerate() {
            let text = text.as_ref();
            let (mut start, mut look) = (0, PART_BYTES);
            while look < text.len() {
                match self.splitter.last_safe_cut(&text[..look], look - PART_BYTES / 2) {
                    Some(cut) => {
                        stretches.push(Stretch { text: number, start, end: cut });
                        (start, look) = (cut, cut + PART_BYTES);
                    }
                    None => look += PART_BYTES / 2,
                }
            }
            stretches.push(Stretch { text: number, start, end: text.len() });
        }
        stretches
    }

    fn encode_parts<T: AsRef<[u8]> + Sync, E: From<SplitError>>(
        &self,
        texts: &[T],
        parts: &[&[Stretch]],
        prefix: Option<u32>,
        threads: usize,
        mut poll: impl FnMut() -> Result<(), E>,
    ) -> Result<Vec<Encoded>, E> {
        if threads == 1 {
            return parts
                .iter()
                .map(|part| {
                    poll()?;
                    Ok(self.encode_part(texts, part, prefix)?)
                })
                .collect();
        }
        let next = AtomicUsize::new(0);
        let mut encoded: Vec<Option<Encoded>> = Vec::new();
        encoded.resize_with(parts.len(), || None);
        std::thread::scope(|scope| -> Result<(), E> {
            let (outbox, results) = bounded(2 * threads);
            for _ in 0..threads {
                let (outbox, next) = (outbox.clone(), &next);
                scope.spawn(move || {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some(part) = parts.get(number) else { break };
                        // Nobody takes it when the caller has given up.
                        if outbox.send((number, self.encode_part(texts, part, prefix))).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(outbox);
            loop {
                match results.recv_timeout(POLL_EVERY) {
                    Ok((number, part)) => encoded[number] = Some(part?),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
                poll()?;
            }
        })?;
        Ok(encoded.into_iter().map(|part| part.expect("every part is encoded once")).collect())
    }

    fn encode_part<T: AsRef<[u8]>>(
        &self,
        texts: &[T],
        part: &[Stretch],
        prefix: Option<u32>,
    ) -> Result<Encoded, SplitError> {
        let bytes: usize = part.iter().map(|stretch| stretch.end - stretch.start).sum();
        // Three bytes make a token or more, nearly always.
        let mut ids = Vec::with_capacity(bytes / 3 + part.len() + 1024);
        let mut lengths = Vec::with_capacity(part.len());
        self.with_cache(|cache, splitter| {
            for stretch in part {
                let first = ids.len();
                if stretch.start == 0 {
                    ids.extend(prefix);
                }
                let text = &texts[stretch.text].as_ref()[stretch.start..stretch.end];
                cache.encode(&self.vocabulary, splitter, text, &mut ids)?;
                lengths.push(ids.len() - first);
            }
            Ok(Encoded { ids, lengths })
        })
    }
}

/// Consecutive stretches, together about `PART_BYTES` long.
fn parts(stretches: &[Stretch]) -> Vec<&[Stretch]> {
    let mut parts = Vec::new();
    let (mut first, mut bytes) = (0, 0);
    for (i, stretch) in stretches.iter().enumerate() {
        bytes += stretch.end - stretch.start + size_of::<Stretch>();
        if bytes >= PART_BYTES {
            parts.push(&stretches[first..=i]);
            (first, bytes) = (i + 1, 0);
        }
    }
    if first < stretches.len() {
        parts.push(&stretches[first..]);
    }
    parts
}

/// All ids in one array. Fresh memory costs as much as the copying, so the threads share both.
fn concatenate(encoded: Vec<Encoded>, threads: usize) -> Vec<u32> {
    let total = encoded.iter().map(|part| part.ids.len()).sum();
    let mut ids: Vec<u32> = Vec::with_capacity(total);
    huge_pages(&ids);
    // Every share takes at least one part, also where no part has an id.
    let enough = total.div_ceil(threads).max(1);
    let mut room = &mut ids.spare_capacity_mut()[..total];
    std::thread::scope(|scope| {
        let mut left = encoded.into_iter().peekable();
        while left.peek().is_some() {
            let mut share = Vec::new();
            let mut n = 0;
            while n < enough {
                let Some(part) = left.next() else { break };
                n += part.ids.len();
                share.push(part.ids);
            }
            let (mine, rest) = std::mem::take(&mut room).split_at_mut(n);
            room = rest;
            let copy = move || {
                let mut place = mine;
                for ids in share {
                    let (here, rest) = place.split_at_mut(ids.len());
                    // As many cells as ids, and no id needs more than its bits.
                    unsafe { std::ptr::copy_nonoverlapping(ids.as_ptr(), here.as_mut_ptr().cast(), ids.len()) };
                    place = rest;
                }
            };
            if left.peek().is_some() {
                scope.spawn(copy);
            } else {
                copy();
            }
        }
    });
    // The shares covered all of it.
    unsafe { ids.set_len(total) };
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::{learn_merges, token_bytes, TooLarge};
    use crate::split::PATTERN;
    use crate::table::PieceTable;

    const TEXT: &str =
        "It's the year 2024; the ships sail on, and die Schiffe fahren weiter: \u{6f22}\u{5b57}.\n\n  Next\tline\r\n";

    #[derive(Debug, PartialEq)]
    enum Failure {
        Host,
    }

    impl From<SplitError> for Failure {
        fn from(_: SplitError) -> Self {
            unreachable!("the scanner doesn't fail")
        }
    }

    impl From<TooLarge> for Failure {
        fn from(_: TooLarge) -> Self {
            unreachable!("tests are small")
        }
    }

    fn encoder(merges: usize) -> Encoder {
        let splitter = Splitter::new(PATTERN).unwrap();
        let mut table = PieceTable::default();
        splitter.pieces(TEXT.as_bytes()).unwrap().into_iter().for_each(|piece| table.add(piece, 1));
        let merges = learn_merges::<Failure>(table, merges, |_| Ok(())).unwrap();
        Encoder::new(Vocabulary::new(&token_bytes(&merges)).unwrap(), splitter)
    }

    fn encode(encoder: &Encoder, text: &[u8]) -> Vec<u32> {
        let mut ids = Vec::new();
        encoder.encode(text, &mut ids).unwrap();
        ids
    }

    #[test]
    fn decoding_gives_back_any_bytes() {
        let encoder = encoder(40);
        for text in [TEXT.as_bytes(), b"", &[0xFF, 0xC3, b'a', 0xE2, 0x82], "\u{1f642}".as_bytes()] {
            let ids = encode(&encoder, text);
            let bytes: Vec<u8> = ids.iter().flat_map(|&id| encoder.vocabulary().bytes(id)).copied().collect();
            assert_eq!(bytes, text);
        }
    }

    #[test]
    fn what_is_remembered_changes_nothing() {
        // Words of all lengths, more than the cache holds, twice; a fresh encoder for each remembers nothing.
        let warm = encoder(60);
        let words: Vec<String> = (0..40_000u64)
            .map(|i| format!(" {}", i.wrapping_mul(0x9E37_79B9_7F4A_7C15)).replace(['1', '2', '3'], "the"))
            .map(|word| word[..word.len().min(1 + word.len() * 7 % 90)].replace(['4', '5'], "sailor"))
            .collect();
        let first: Vec<Vec<u32>> = words.iter().map(|word| encode(&warm, word.as_bytes())).collect();
        for (word, ids) in words.iter().zip(&first) {
            assert_eq!(&encode(&warm, word.as_bytes()), ids);
        }
        for (word, ids) in words.iter().zip(&first).step_by(997) {
            assert_eq!(&encode(&encoder(60), word.as_bytes()), ids);
        }
    }

    #[test]
    fn batches_equal_single_texts_on_any_number_of_threads() {
        let encoder = encoder(60);
        // Long enough to be cut, one of them where no cut is safe.
        let texts = [TEXT.repeat(6000), String::new(), TEXT.to_owned(), "ab".repeat(400_000), TEXT.repeat(3000)];
        for prefix in [None, Some(999)] {
            let mut expected = Vec::new();
            let mut starts = vec![0];
            for text in &texts {
                expected.extend(prefix);
                expected.extend(encode(&encoder, text.as_bytes()));
                starts.push(expected.len() as i64);
            }
            for threads in [1, 2, 8] {
                let (ids, offsets) = encoder.encode_batch::<_, Failure>(&texts, prefix, threads, || Ok(())).unwrap();
                assert_eq!(offsets, starts);
                assert_eq!(ids, expected);
            }
        }
        let none: [&str; 0] = [];
        assert_eq!(encoder.encode_batch::<_, Failure>(&none, None, 4, || Ok(())), Ok((vec![], vec![0])));
        assert_eq!(encoder.encode_batch::<_, Failure>(&["", ""], None, 4, || Ok(())), Ok((vec![], vec![0, 0, 0])));
    }

    #[test]
    fn the_host_can_end_a_batch() {
        let encoder = encoder(10);
        let texts = vec![TEXT.repeat(3000); 20];
        for threads in [1, 3] {
            let mut polls = 0;
            let ended = encoder.encode_batch(&texts, None, threads, || {
                polls += 1;
                if polls < 3 {
                    Ok(())
                } else {
                    Err(Failure::Host)
                }
            });
            assert_eq!(ended, Err(Failure::Host));
        }
    }
}
