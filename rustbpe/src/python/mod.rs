//! The Python module.

mod buffer;
mod encoder;
mod train;

use pyo3::create_exception;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::{PyBytes, PyList, PyString};

use crate::merge::TooLarge;
use crate::split::{SplitError, Splitter, PATTERN};
use crate::vocabulary::VocabularyError;

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

impl From<VocabularyError> for PyErr {
    fn from(cause: VocabularyError) -> Self {
        PyValueError::new_err(cause.to_string())
    }
}

/// A str or bytes of Python's, held without a copy where the interpreter has its UTF-8, and usable without the GIL.
enum Text {
    Str(PyBackedStr),
    Bytes(PyBackedBytes),
}

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Str(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl Text {
    /// Raises TypeError for anything else, UnicodeEncodeError for lone surrogates.
    fn new(text: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(text) = text.cast::<PyString>() {
            return Ok(Self::Str(text.clone().try_into()?));
        }
        match text.cast::<PyBytes>() {
            Ok(bytes) => Ok(Self::Bytes(bytes.clone().into())),
            Err(_) => Err(PyTypeError::new_err(format!("must be a str or bytes, not {}", text.get_type().name()?))),
        }
    }
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
#[pyo3(signature = (text, *, pattern = PATTERN))]
fn split<'py>(text: &Bound<'py, PyAny>, pattern: &str) -> PyResult<Bound<'py, PyList>> {
    let py = text.py();
    let text = train::named(Text::new(text), py, || "text".to_owned())?;
    let splitter = Splitter::new(pattern)?;
    let pieces = splitter.pieces(text.as_ref())?;
    match text {
        // The cuts of a str lie between characters.
        Text::Str(_) => PyList::new(py, pieces.into_iter().map(|piece| std::str::from_utf8(piece).unwrap_or_default())),
        Text::Bytes(_) => PyList::new(py, pieces.into_iter().map(|piece| PyBytes::new(py, piece))),
    }
}

#[pymodule]
mod _rustbpe {
    #[pymodule_export]
    use super::{
        buffer::TokenBuffer,
        encoder::Encoder,
        split,
        train::{train, train_files},
        CorpusError,
    };

    #[pymodule_export]
    const PATTERN: &str = crate::split::PATTERN;

    #[pymodule_export]
    const MOST_TOKENS: usize = crate::vocabulary::MOST_TOKENS;
}
