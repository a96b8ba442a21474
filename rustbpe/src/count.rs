//! Counting the distinct pieces of a stream of texts, in parallel, in memory proportional to the distinct pieces.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{bounded, Receiver, RecvTimeoutError, SendTimeoutError};

use crate::split::{SplitError, Splitter};
use crate::table::{Counter, PieceTable};

/// How long the calling thread waits for the workers before it polls its host again.
pub const POLL_EVERY: Duration = Duration::from_millis(50);
/// Pieces a worker counts between two looks at the stop flag.
const PIECES_PER_LOOK: u32 = 4096;

/// Counts the pieces of all texts in the batches that `next_batch` hands out, on `threads` threads.
///
/// `next_batch` and `poll` run on the calling thread; at most `2 * threads` batches wait at any time. `poll` is called every
/// few dozen milliseconds and after every batch; its error, like one from `next_batch`, ends the work.
pub fn count_pieces<T: AsRef<[u8]> + Send, E: From<SplitError>>(
    splitter: &Splitter,
    threads: usize,
    mut next_batch: impl FnMut() -> Result<Option<Vec<T>>, E>,
    mut poll: impl FnMut() -> Result<(), E>,
) -> Result<PieceTable, E> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (batches, inbox) = bounded::<Vec<T>>(2 * threads);
        let (outbox, results) = bounded(threads);
        for _ in 0..threads {
            let (inbox, outbox, stop, splitter) = (inbox.clone(), outbox.clone(), &stop, splitter.clone());
            scope.spawn(move || {
                let result = count_batches(&splitter, &inbox, stop);
                // The results are only unread when the caller has given up already.
                let _ = outbox.send(result);
            });
        }
        // Only the workers hold these ends, so that the caller sees when the last of them is gone.
        drop((inbox, outbox));

        let feed_and_collect = || -> Result<PieceTable, E> {
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
            let mut total: Option<PieceTable> = None;
            loop {
                match results.recv_timeout(POLL_EVERY) {
                    Ok(counts) => {
                        let counts = counts?;
                        total = Some(match total {
                            Some(total) => add(total, counts),
                            None => counts,
                        });
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return Ok(total.unwrap_or_default()),
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
fn count_batches<T: AsRef<[u8]>>(
    splitter: &Splitter,
    inbox: &Receiver<Vec<T>>,
    stop: &AtomicBool,
) -> Result<PieceTable, SplitError> {
    let mut counter = Counter::default();
    let mut until_look = PIECES_PER_LOOK;
    for batch in inbox {
        for text in &batch {
            let text = text.as_ref();
            let outcome = splitter.for_each_piece(text, |start, end| {
                counter.count(text, start, end);
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
                return Ok(PieceTable::default());
            }
        }
    }
    Ok(counter.finish())
}

/// The sum of two tables; the smaller one is poured into the larger.
fn add(left: PieceTable, right: PieceTable) -> PieceTable {
    let (mut total, other) = if left.len() >= right.len() { (left, right) } else { (right, left) };
    total.absorb(other);
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split::PATTERN;
    use std::collections::BTreeMap;

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

    fn count(pattern: &str, threads: usize, mut batches: Vec<Vec<String>>) -> Result<BTreeMap<String, u64>, Failure> {
        let splitter = Splitter::new(pattern)?;
        let table = count_pieces(&splitter, threads, || Ok::<_, Failure>(batches.pop()), || Ok(()))?;
        let mut found = BTreeMap::new();
        table.for_each(|piece, count| {
            found.insert(String::from_utf8(piece.to_vec()).unwrap(), count);
        });
        Ok(found)
    }

    #[test]
    fn texts_of_a_batch_stay_apart() {
        let counts = count(PATTERN, 1, vec![["ab", "ab", "", "cd ab"].map(str::to_owned).into()]).unwrap();
        let expected = [("ab", 2), ("cd", 1), (" ab", 1)].map(|(piece, count)| (piece.to_owned(), count));
        assert_eq!(counts, expected.into());
    }

    #[test]
    fn counts_do_not_depend_on_the_number_of_threads() {
        let many = || (0..100).map(|i| vec![format!("word{i} and more"), "the same text".to_owned()]).collect();
        let one = count(PATTERN, 1, many()).unwrap();
        assert_eq!(one[" and"], 100);
        for threads in [2, 3, 8] {
            assert_eq!(count(PATTERN, threads, many()).unwrap(), one);
        }
    }

    #[test]
    fn an_error_of_the_host_ends_the_work() {
        let splitter = Splitter::new(PATTERN).unwrap();
        let mut left = 3;
        let outcome = count_pieces(
            &splitter,
            2,
            || {
                left -= 1;
                if left == 0 {
                    Err(Failure::Host)
                } else {
                    Ok(Some(vec!["some text"]))
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
            || Ok(Some(vec!["more text"])),
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
        let mut text = Some(vec!["0123456789 ".repeat(20_000_000)]);
        let outcome = count_pieces(&splitter, 1, || Ok(text.take()), || Err(Failure::Host));
        assert!(matches!(outcome, Err(Failure::Host)));
    }

    #[test]
    fn a_pattern_that_backtracks_too_far_is_an_error_not_a_hang() {
        let endless: Vec<Vec<String>> = (0..100).map(|_| vec!["a".repeat(100_000)]).collect();
        let outcome = count(r"(?:a+)+(?=b)(a)\1", 2, endless);
        assert!(matches!(outcome, Err(Failure::Split(SplitError::Text(_)))), "{:?}", outcome.is_ok());
    }
}
