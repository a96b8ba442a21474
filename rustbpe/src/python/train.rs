//! `train` and `train_files`.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyIterator, PyString};

use super::{thread_count, CorpusError, Text};
use crate::count::count_pieces;
use crate::merge::{learn_merges, token_bytes};
use crate::split::{Splitter, PATTERN};

/// Texts are handed to the counting threads in batches of about this many bytes.
const BATCH_BYTES: usize = 1 << 20;
/// Ctrl-C is looked for this often while merges are learned.
const SIGNALS_EVERY: Duration = Duration::from_millis(50);
/// The progress callback is called this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

#[pyfunction]
#[pyo3(signature = (texts, vocab_size, *, pattern = PATTERN, threads = None, progress = None))]
pub fn train<'py>(
    texts: &Bound<'py, PyAny>,
    vocab_size: i64,
    pattern: &str,
    threads: Option<i64>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Vec<Bound<'py, PyBytes>>> {
    let py = texts.py();
    if texts.is_instance_of::<PyString>() || texts.is_instance_of::<PyBytes>() {
        let kind = texts.get_type().name()?;
        return Err(PyTypeError::new_err(format!("texts must be an iterable of texts, not one {kind}")));
    }
    let training = Training::new(vocab_size, pattern, threads, progress, None)?;
    let texts = texts.try_iter()?.unbind();
    let mut taken = 0;
    training.run(py, |bytes| Python::attach(|py| next_batch(texts.bind(py), &mut taken, bytes)))
}

#[pyfunction]
#[pyo3(signature = (paths, vocab_size, *, pattern = PATTERN, threads = None, progress = None))]
pub fn train_files<'py>(
    py: Python<'py>,
    paths: Vec<PathBuf>,
    vocab_size: i64,
    pattern: &str,
    threads: Option<i64>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Vec<Bound<'py, PyBytes>>> {
    let mut total = 0;
    for path in &paths {
        total += path.metadata().map_err(|cause| os_error(&cause, path))?.len();
    }
    let training = Training::new(vocab_size, pattern, threads, progress, Some(total))?;
    let splitter = training.splitter.clone();
    let mut files = Files { paths: paths.into_iter(), open: None, splitter };
    training.run(py, |bytes| files.next_batch(bytes))
}

/// What both kinds of training share.
struct Training {
    splitter: Splitter,
    wanted: usize,
    threads: usize,
    progress: Option<Py<PyAny>>,
    total: Option<u64>,
}

impl Training {
    fn new(
        vocab_size: i64,
        pattern: &str,
        threads: Option<i64>,
        progress: Option<Py<PyAny>>,
        total: Option<u64>,
    ) -> PyResult<Self> {
        if vocab_size < 256 {
            return Err(PyValueError::new_err(format!(
                "vocab_size must be at least 256, one id for every byte; got {vocab_size}"
            )));
        }
        let (splitter, threads) = (Splitter::new(pattern)?, thread_count(threads)?);
        Ok(Self { splitter, wanted: vocab_size as usize - 256, threads, progress, total })
    }

    /// Trains on the batches that `next_batch` hands out, which adds what they hold to the number of bytes so far.
    fn run<'py, T: AsRef<[u8]> + Send>(
        &self,
        py: Python<'py>,
        mut next_batch: impl FnMut(&Cell<u64>) -> PyResult<Option<Vec<T>>> + Send,
    ) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let merges = py.detach(|| -> PyResult<_> {
            let mut told = Instant::now();
            let bytes = Cell::new(0);
            let table = count_pieces(
                &self.splitter,
                self.threads,
                || next_batch(&bytes),
                || {
                    Python::attach(|py| {
                        py.check_signals().and_then(|()| self.tell(py, &mut told, "count", bytes.get()))
                    })
                },
            )?;
            self.tell_last("count", bytes.get(), self.total)?;
            let mut looked = Instant::now();
            let merges = learn_merges(table, self.wanted, |merges| {
                if looked.elapsed() < SIGNALS_EVERY {
                    return Ok(());
                }
                looked = Instant::now();
                Python::attach(|py| py.check_signals().and_then(|()| self.tell(py, &mut told, "merge", merges as u64)))
            })?;
            self.tell_last("merge", merges.len() as u64, Some(self.wanted as u64))?;
            Ok(merges)
        })?;
        Ok(token_bytes(&merges).iter().map(|token| PyBytes::new(py, token)).collect())
    }

    /// Calls back, unless it was done a moment ago.
    fn tell(&self, py: Python<'_>, told: &mut Instant, phase: &str, done: u64) -> PyResult<()> {
        if let Some(progress) = &self.progress {
            if told.elapsed() >= PROGRESS_EVERY {
                *told = Instant::now();
                let total = if phase == "count" { self.total } else { Some(self.wanted as u64) };
                progress.call1(py, (phase, done, total))?;
            }
        }
        Ok(())
    }

    fn tell_last(&self, phase: &str, done: u64, total: Option<u64>) -> PyResult<()> {
        match &self.progress {
            Some(progress) => Python::attach(|py| progress.call1(py, (phase, done, total)).map(drop)),
            None => Ok(()),
        }
    }
}

/// Gives an error of a text the text's name.
pub fn named<T>(text: PyResult<T>, py: Python<'_>, name: impl FnOnce() -> String) -> PyResult<T> {
    text.map_err(|cause| {
        let what = if cause.is_instance_of::<PyTypeError>(py) { "" } else { "isn't valid Unicode text: " };
        let error = CorpusError::new_err(format!("{} {what}{}", name(), cause.value(py)));
        error.set_cause(py, Some(cause));
        error
    })
}

/// Takes texts from the iterator until a batch is full; None at the iterator's end.
fn next_batch(texts: &Bound<'_, PyIterator>, taken: &mut usize, bytes: &Cell<u64>) -> PyResult<Option<Vec<Text>>> {
    let mut batch = Vec::new();
    let mut size = 0;
    for text in texts.clone() {
        let text = named(own(&text?), texts.py(), || format!("texts[{taken}]"))?;
        // Empty texts fill a batch, too.
        size += text.as_ref().len() + size_of::<Text>();
        bytes.set(bytes.get() + text.as_ref().len() as u64);
        batch.push(text);
        *taken += 1;
        if size >= BATCH_BYTES {
            break;
        }
    }
    Ok((!batch.is_empty()).then_some(batch))
}

/// A text of its own: asking a str for its UTF-8 would leave a copy in it for as long as it lives.
fn own(text: &Bound<'_, PyAny>) -> PyResult<Text> {
    match text.cast::<PyString>() {
        Ok(text) => Ok(Text::Bytes(text.encode_utf8()?.into())),
        Err(_) => Text::new(text),
    }
}

/// Reads files one after the other, long ones in parts that can be split apart.
struct Files {
    paths: std::vec::IntoIter<PathBuf>,
    open: Option<Open>,
    splitter: Splitter,
}

struct Open {
    path: PathBuf,
    file: File,
    /// Bytes that it should still have.
    left: u64,
    /// What was read and not handed out yet.
    rest: Vec<u8>,
}

impl Files {
    fn next_batch(&mut self, bytes: &Cell<u64>) -> PyResult<Option<Vec<Vec<u8>>>> {
        let mut batch = Vec::new();
        let mut size = 0;
        while size < BATCH_BYTES {
            let Some(open) = &mut self.open else {
                let Some(path) = self.paths.next() else { break };
                let file = File::open(&path).map_err(|cause| os_error(&cause, &path))?;
                let left = file.metadata().map_err(|cause| os_error(&cause, &path))?.len();
                self.open = Some(Open { path, file, left, rest: Vec::new() });
                continue;
            };
            let (part, ended) = open.read(&self.splitter)?;
            if ended {
                self.open = None;
            }
            bytes.set(bytes.get() + part.len() as u64);
            size += part.len() + size_of::<Vec<u8>>();
            batch.push(part);
        }
        Ok((!batch.is_empty()).then_some(batch))
    }
}

impl Open {
    /// The next part, and whether it is the last.
    fn read(&mut self, splitter: &Splitter) -> PyResult<(Vec<u8>, bool)> {
        let mut part = std::mem::take(&mut self.rest);
        let mut look = 0;
        loop {
            let had = part.len();
            // One byte more than there should be, so that the end shows.
            let room = (self.left as usize + 1).clamp(1 << 16, BATCH_BYTES);
            part.reserve(room);
            let read = (&mut self.file).take(room as u64).read_to_end(&mut part);
            let read = read.map_err(|cause| os_error(&cause, &self.path))? as u64;
            if read > self.left {
                self.left = 0; // it has grown since; the rest is read as well
            } else {
                self.left -= read;
            }
            if read < room as u64 {
                if self.left > 0 {
                    let path = self.path.display();
                    return Err(CorpusError::new_err(format!("{path} became shorter while it was read")));
                }
                return Ok((part, true));
            }
            if let Some(cut) = splitter.last_safe_cut(&part, look) {
                self.rest = part.split_off(cut);
                return Ok((part, false));
            }
            look = had;
        }
    }
}

/// OSError(errno, text, path), which Python turns into FileNotFoundError and the like.
fn os_error(cause: &io::Error, path: &Path) -> PyErr {
    let text = cause.to_string();
    let text = text.split(" (os error").next().unwrap_or_default().to_owned();
    match cause.raw_os_error() {
        Some(number) => PyOSError::new_err((number, text, path.as_os_str().to_owned())),
        None => PyOSError::new_err(format!("{}: {text}", path.display())),
    }
}
