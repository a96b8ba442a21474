//! The Python module.

use std::time::{Duration, Instant};

use pyo3::create_exception;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyIterator, PyString};

use crate::count::{count_pieces, Batch};
use crate::merge::{learn_merges, token_bytes, TooLarge};
use crate::split::{SplitError, Splitter, PATTERN};

/// Texts are handed to the counting threads in batches of about this many bytes.
const BATCH_BYTES: usize = 1 << 20;
/// Ctrl-C is looked for this often while merges are learned.
const SIGNALS_EVERY: Duration = Duration::from_millis(50);

create_exception!(
    mccore_rustbpe,
    CorpusError,
    PyValueError,
    "A text that can't be split or trained on, or a corpus too large."
);

impl From<SplitError> for PyErr {
    fn from(cause: SplitError) -> Self {
        match cause {
            SplitError::Pattern(_) => PyValueError::new_err(cause.to_string()),
            SplitError::Text(_) => CorpusError::new_err(cause.to_string()),
        }
    }
}

impl From<TooLarge> for PyErr {
    fn from(cause: TooLarge) -> Self {
        CorpusError::new_err(cause.to_string())
    }
}

/// The text of a Python string, without leaving a second copy of it in the string's own cache.
fn utf8<'py>(text: &Bound<'py, PyAny>, name: impl FnOnce() -> String) -> PyResult<Bound<'py, PyBytes>> {
    let Ok(text) = text.cast::<PyString>() else {
        let kind = text.get_type().name()?;
        return Err(CorpusError::new_err(format!("{} must be a str, not {kind}", name())));
    };
    text.encode_utf8().map_err(|cause| {
        let error = CorpusError::new_err(format!("{} isn't valid Unicode text: {}", name(), cause.value(text.py())));
        error.set_cause(text.py(), Some(cause));
        error
    })
}

/// Takes texts from the iterator until a batch is full; None at the iterator's end.
fn next_batch(texts: &Bound<'_, PyIterator>, taken: &mut usize) -> PyResult<Option<Batch>> {
    let mut batch = Batch::default();
    for text in texts.clone() {
        let bytes = utf8(&text?, || format!("texts[{taken}]"))?;
        batch.push(std::str::from_utf8(bytes.as_bytes())?);
        *taken += 1;
        if batch.size() >= BATCH_BYTES {
            break;
        }
    }
    Ok((!batch.is_empty()).then_some(batch))
}

fn thread_count(threads: Option<i64>) -> PyResult<usize> {
    match threads {
        None => Ok(std::thread::available_parallelism().map_or(1, |n| n.get())),
        Some(threads @ 1..=1024) => Ok(threads as usize),
        Some(threads) => Err(PyValueError::new_err(format!(
            "threads must be from 1 to 1024, or None for one per CPU; got {threads}"
        ))),
    }
}

#[pyfunction]
#[pyo3(signature = (texts, vocab_size, *, pattern = PATTERN, threads = None))]
fn train<'py>(
    texts: &Bound<'py, PyAny>,
    vocab_size: i64,
    pattern: &str,
    threads: Option<i64>,
) -> PyResult<Vec<Bound<'py, PyBytes>>> {
    let py = texts.py();
    if vocab_size < 256 {
        return Err(PyValueError::new_err(format!(
            "vocab_size must be at least 256, one id for every byte; got {vocab_size}"
        )));
    }
    if texts.is_instance_of::<PyString>() {
        return Err(PyTypeError::new_err("texts must be an iterable of str, not one str"));
    }
    let threads = thread_count(threads)?;
    let splitter = Splitter::new(pattern)?;
    let texts = texts.try_iter()?.unbind();
    let merges = py.detach(|| -> PyResult<_> {
        let mut taken = 0;
        let counts = count_pieces(
            &splitter,
            threads,
            || Python::attach(|py| next_batch(texts.bind(py), &mut taken)),
            || Python::attach(|py| py.check_signals()),
        )?;
        let mut looked = Instant::now();
        learn_merges(counts, vocab_size as usize - 256, || {
            if looked.elapsed() < SIGNALS_EVERY {
                return Ok(());
            }
            looked = Instant::now();
            Python::attach(|py| py.check_signals())
        })
    })?;
    Ok(token_bytes(&merges).iter().map(|token| PyBytes::new(py, token)).collect())
}

#[pyfunction]
#[pyo3(signature = (text, *, pattern = PATTERN))]
fn split(text: &Bound<'_, PyAny>, pattern: &str) -> PyResult<Vec<String>> {
    let bytes = utf8(text, || "text".to_owned())?;
    let pieces = Splitter::new(pattern)?;
    let pieces = pieces.pieces(std::str::from_utf8(bytes.as_bytes())?)?;
    Ok(pieces.into_iter().map(str::to_owned).collect())
}

#[pymodule]
mod _rustbpe {
    #[pymodule_export]
    use super::{split, train, CorpusError};

    #[pymodule_export]
    const PATTERN: &str = crate::split::PATTERN;
}
