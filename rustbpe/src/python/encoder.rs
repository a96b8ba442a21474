//! The encoder as a Python class.

use std::sync::OnceLock;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyInt, PyList};
use pyo3::{ffi, intern};

use super::buffer::TokenBuffer;
use super::train::named;
use super::{thread_count, Text};
use crate::encode;
use crate::key::prefetch;
use crate::split::{Splitter, PATTERN};
use crate::vocabulary::Vocabulary;

/// Shorter texts are encoded in less time than letting go of the interpreter takes.
const SMALL: usize = 2048;

/// A number that is shared is asked for so many places before its turn: there are more than the nearest cache holds.
const AHEAD: usize = 16;

#[pyclass(frozen, module = "mccore_rustbpe")]
pub struct Encoder {
    encoder: encode::Encoder,
    /// What can be decoded: the tokens, then the special ones, which text never turns into.
    decoder: Option<Vocabulary>,
    size: usize,
    /// The ids as Python's numbers: sharing them is cheaper than making them.
    ints: OnceLock<Vec<Py<PyInt>>>,
}

#[pymethods]
impl Encoder {
    #[new]
    #[pyo3(signature = (tokens, *, pattern = PATTERN, specials = Vec::new()))]
    fn new(tokens: Vec<PyBackedBytes>, pattern: &str, specials: Vec<String>) -> PyResult<Self> {
        let splitter = Splitter::new(pattern)?;
        let vocabulary = Vocabulary::new(&tokens)?;
        let size = tokens.len() + specials.len();
        let decoder = if specials.is_empty() {
            None
        } else {
            let all = tokens.iter().map(|token| &token[..]).chain(specials.iter().map(String::as_bytes));
            Some(Vocabulary::for_decoding(all))
        };
        Ok(Self { encoder: encode::Encoder::new(vocabulary, splitter), decoder, size, ints: OnceLock::new() })
    }

    /// Number of ids, special tokens included.
    fn __len__(&self) -> usize {
        self.size
    }

    fn encode<'py>(&self, py: Python<'py>, text: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
        let ids = self.ids(py, text)?;
        let ints = self.ints.get_or_init(|| {
            (0..self.size as u32).map(|id| id.into_pyobject(py).expect("numbers can't fail").unbind()).collect()
        });
        // Every id has its number, and every place of the new list is filled once.
        unsafe {
            let list = Bound::from_owned_ptr_or_err(py, ffi::PyList_New(ids.len() as _))?;
            for (place, &id) in ids.iter().enumerate() {
                if let Some(&ahead) = ids.get(place + AHEAD) {
                    prefetch(&*ints[ahead as usize].as_ptr());
                }
                let int = ints[id as usize].as_ptr();
                ffi::Py_INCREF(int);
                ffi::PyList_SetItem(list.as_ptr(), place as _, int);
            }
            Ok(list.cast_into_unchecked())
        }
    }

    fn encode_to_buffer(&self, py: Python<'_>, text: &Bound<'_, PyAny>) -> PyResult<TokenBuffer> {
        Ok(TokenBuffer::ids(self.ids(py, text)?))
    }

    #[pyo3(signature = (texts, *, prefix = None, threads = None))]
    fn encode_batch(
        &self,
        texts: &Bound<'_, PyAny>,
        prefix: Option<i64>,
        threads: Option<i64>,
    ) -> PyResult<(TokenBuffer, TokenBuffer)> {
        let py = texts.py();
        if Text::new(texts).is_ok() {
            return Err(PyTypeError::new_err("texts must be several texts, not one"));
        }
        let threads = thread_count(threads)?;
        let prefix = match prefix {
            Some(id) if !(0..self.size as i64).contains(&id) => return Err(self.unknown(id)),
            prefix => prefix.map(|id| id as u32),
        };
        let mut held = Vec::with_capacity(texts.len().unwrap_or(0));
        for text in texts.try_iter()? {
            let text = Text::new(&text?);
            held.push(match text {
                Err(cause) if cause.is_instance_of::<PyTypeError>(py) => {
                    return named(Err(cause), py, || format!("texts[{}]", held.len()))
                }
                text => text?,
            });
        }
        let (ids, offsets) = py
            .detach(|| self.encoder.encode_batch(&held, prefix, threads, || Python::attach(|py| py.check_signals())))?;
        Ok((TokenBuffer::ids(ids), TokenBuffer::places(offsets)))
    }

    fn decode<'py>(&self, py: Python<'py>, ids: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        let ids = self.known_ids(py, ids)?;
        let decoder = self.decoder.as_ref().unwrap_or(self.encoder.vocabulary());
        let mut bytes = Vec::new();
        py.detach(|| decoder.decode(&ids, &mut bytes));
        Ok(PyBytes::new(py, &bytes))
    }
}

impl Encoder {
    fn ids(&self, py: Python<'_>, text: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
        let text = match Text::new(text) {
            Err(cause) if cause.is_instance_of::<PyTypeError>(py) => {
                return named(Err(cause), py, || "text".to_owned())
            }
            text => text?,
        };
        let text = text.as_ref();
        let mut ids = Vec::with_capacity(text.len() / 3 + 16);
        if text.len() <= SMALL {
            self.encoder.encode(text, &mut ids)?;
        } else {
            py.detach(|| self.encoder.encode(text, &mut ids))?;
        }
        Ok(ids)
    }

    /// Numbers from Python, each of which is an id.
    fn known_ids(&self, py: Python<'_>, ids: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
        fn from_buffer<T: pyo3::buffer::Element + Into<i64>>(ids: &Bound<'_, PyAny>) -> Option<Vec<i64>> {
            let buffer = PyBuffer::<T>::get(ids).ok().filter(|buffer| buffer.dimensions() == 1)?;
            Some(buffer.to_vec(ids.py()).ok()?.into_iter().map(Into::into).collect())
        }
        let size = self.size as i64;
        if let Ok(list) = ids.cast::<PyList>() {
            let mut known = Vec::with_capacity(list.len());
            for id in list {
                match id.extract::<i64>() {
                    Ok(id) if (0..size).contains(&id) => known.push(id as u32),
                    Ok(id) => return Err(self.unknown(id)),
                    Err(cause) if cause.is_instance_of::<PyTypeError>(py) => return Err(cause),
                    Err(_) => return Err(self.unknown(&id)),
                }
            }
            return Ok(known);
        }
        let numbers = from_buffer::<i32>(ids).or_else(|| from_buffer::<u16>(ids)).or_else(|| from_buffer::<u32>(ids));
        if let Some(numbers) = numbers.or_else(|| from_buffer::<i64>(ids)) {
            return numbers
                .into_iter()
                .map(|id| if (0..size).contains(&id) { Ok(id as u32) } else { Err(self.unknown(id)) })
                .collect();
        }
        // Anything else that can be gone through, as a list.
        let list = py.import(intern!(py, "builtins"))?.getattr(intern!(py, "list"))?.call1((ids,))?;
        self.known_ids(py, &list)
    }

    fn unknown(&self, id: impl std::fmt::Display) -> PyErr {
        PyValueError::new_err(format!("id {id} isn't one of the {} ids", self.size))
    }
}
