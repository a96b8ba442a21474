//! Counting the distinct pieces of a stream of texts, in parallel, in memory proportional to the distinct pieces.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{bounded, Receiver, RecvTimeoutError, SendTimeoutError};
use rustc_hash::FxHashMap;

use crate::split::{SplitError, Splitter};

/// How often each distinct piece occurs.
pub type Counts = FxHashMap<Box<[u8]>, u64>;

/// How long the calling thread waits for the workers before it polls its host again.
const POLL_EVERY: Duration = Duration::from_millis(50);
/// Pieces a worker counts between two looks at the stop flag.
const PIECES_PER_LOOK: u32 = 4096;

/// Some consecutive texts in one buffer.
#[derive(Default)]
pub struct Batch {
    buffer: String,
    ends: Vec<usize>,
}

impl Batch {
    pub fn push(&mut self, text: &str) {
        self.buffer.push_str(text);
        self.ends.push(self.buffer.len());
    }

    /// Bytes in use; grows with empty texts too, so that a limit on it bounds a batch of anything.
    pub fn size(&self) -> usize {
        self.buffer.len() + size_of_val(self.ends.as_slice())
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        self.ends.iter().scan(0, |start, &end| {
            let text = &self.buffer[*start..end];
            *start = end;
            Some(text)
        })
    }
}

/// Counts the pieces of all texts that `next_batch` hands out, on `threads` threads.
///
/// `next_batch` and `poll` run on the calling thread; at most `2 * threads` batches wait at any time. `poll` is called every
/// few dozen milliseconds and after every batch; its error, like one from `next_batch`, ends the work.
pub fn count_pieces<E: From<SplitError>>(
    splitter: &Splitter,
    threads: usize,
    mut next_batch: impl FnMut() -> Result<Option<Batch>, E>,
    mut poll: impl FnMut() -> Result<(), E>,
) -> Result<Counts, E> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (batches, inbox) = bounded::<Batch>(2 * threads);
        let (outbox, results) = bounded(threads);
        for _ in 0..threads {
            let (inbox, outbox, stop) = (inbox.clone(), outbox.clone(), &stop);
            scope.spawn(move || {
                let result = count_batches(splitter, &inbox, stop);
                // The results are only unread when the caller has given up already.
                let _ = outbox.send(result);
            });
        }
        // Only the workers hold these ends, so that the caller sees when the last of them is gone.
        drop((inbox, outbox));

        let feed_and_collect = || -> Result<Counts, E> {
            'feed: while let Some(mut batch) = next_batch()? {
                loop {
                    let sent = batches.send_timeout(batch, POLL_EVERY);
                    poll()?;
                    match sent {
                        Ok(()) if stop.load(Ordering::Relaxed) => break 'feed,
                        Ok(()) => break,
                        Err(SendTimeoutError::Timeout(unsent)) => batch = unsent,
                        Err(SendTimeoutError::Disconnected(_)) => break 'feed,
                    }
                }
            }
            drop(batches);
            let mut total = Counts::default();
            loop {
                match results.recv_timeout(POLL_EVERY) {
                    Ok(counts) => total = add(total, counts?),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return Ok(total),
                }
                poll()?;
            }
        };
        let counts = feed_and_collect();
        if counts.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        counts
    })
}

/// A worker's whole life: the counts of the batches it took. Sets `stop` on an error, so that the others end too.
fn count_batches(splitter: &Splitter, inbox: &Receiver<Batch>, stop: &AtomicBool) -> Result<Counts, SplitError> {
    let mut counts = Counts::default();
    let mut until_look = PIECES_PER_LOOK;
    for batch in inbox {
        for text in batch.texts() {
            let outcome = splitter.for_each_piece(text, |piece| {
                let piece = piece.as_bytes();
                if let Some(count) = counts.get_mut(piece) {
                    *count += 1;
                } else {
                    counts.insert(piece.into(), 1);
                }
                until_look -= 1;
                if until_look > 0 {
                    return true;
                }
                until_look = PIECES_PER_LOOK;
                !stop.load(Ordering::Relaxed)
            });
            if outcome.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            outcome?;
            if stop.load(Ordering::Relaxed) {
                return Ok(counts);
            }
        }
    }
    Ok(counts)
}

/// The sum of two tables; the smaller one is poured into the larger.
fn add(left: Counts, right: Counts) -> Counts {
    let (mut total, other) = if left.len() >= right.len() { (left, right) } else { (right, left) };
    for (piece, count) in other {
        *total.entry(piece).or_default() += count;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split::PATTERN;

    #[derive(Debug)]
    enum Failure {
        Split(SplitError),
        Host,
    }

    impl From<SplitError> for Failure {
        fn from(cause: SplitError) -> Self {
            Self::Split(cause)
        }
    }

    fn batch(texts: &[&str]) -> Batch {
        let mut batch = Batch::default();
        texts.iter().for_each(|text| batch.push(text));
        batch
    }

    fn count(pattern: &str, threads: usize, mut batches: Vec<Batch>) -> Result<Counts, Failure> {
        let splitter = Splitter::new(pattern)?;
        count_pieces(&splitter, threads, || Ok(batches.pop()), || Ok(()))
    }

    #[test]
    fn texts_of_a_batch_stay_apart() {
        let counts = count(PATTERN, 1, vec![batch(&["ab", "ab", "", "cd ab"])]).unwrap();
        let expected: Counts = [("ab", 2), ("cd", 1), (" ab", 1)]
            .map(|(piece, count)| (piece.as_bytes().into(), count))
            .into_iter()
            .collect();
        assert_eq!(counts, expected);
    }

    #[test]
    fn counts_do_not_depend_on_the_number_of_threads() {
        let many = || (0..100).map(|i| batch(&[&format!("word{i} and more"), "the same text"])).collect();
        let one = count(PATTERN, 1, many()).unwrap();
        assert_eq!(one[" and".as_bytes()], 100);
        for threads in [2, 3, 8] {
            assert_eq!(count(PATTERN, threads, many()).unwrap(), one);
        }
    }

    #[test]
    fn an_error_of_the_host_ends_the_work() {
        let splitter = Splitter::new(PATTERN).unwrap();
        let mut left = 3;
        let outcome: Result<Counts, Failure> = count_pieces(
            &splitter,
            2,
            || {
                left -= 1;
                if left == 0 {
                    Err(Failure::Host)
                } else {
                    Ok(Some(batch(&["some text"])))
                }
            },
            || Ok(()),
        );
        assert!(matches!(outcome, Err(Failure::Host)));
    }

    #[test]
    fn an_interrupt_ends_an_endless_stream_of_texts() {
        let splitter = Splitter::new(PATTERN).unwrap();
        let mut polls = 0;
        let outcome = count_pieces(
            &splitter,
            2,
            || Ok(Some(batch(&["more text"]))),
            || {
                polls += 1;
                if polls < 10 {
                    Ok(())
                } else {
                    Err(Failure::Host)
                }
            },
        );
        assert!(matches!(outcome, Err(Failure::Host)));
    }

    #[test]
    fn an_interrupt_stops_a_worker_inside_a_long_text() {
        let splitter = Splitter::new(PATTERN).unwrap();
        let mut text = Some(batch(&["0123456789 ".repeat(20_000_000).as_str()]));
        let outcome = count_pieces(&splitter, 1, || Ok(text.take()), || Err(Failure::Host));
        assert!(matches!(outcome, Err(Failure::Host)));
    }

    #[test]
    fn a_pattern_that_backtracks_too_far_is_an_error_not_a_hang() {
        let text = "a".repeat(100_000);
        let endless: Vec<Batch> = (0..1000).map(|_| batch(&[&text])).collect();
        let outcome = count(r"(?:a+)+(?=b)(a)\1", 2, endless);
        assert!(matches!(outcome, Err(Failure::Split(SplitError::Text(_)))), "{:?}", outcome.is_ok());
    }
}
