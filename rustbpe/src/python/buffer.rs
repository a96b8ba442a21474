//! Arrays of numbers that Python reads through the buffer protocol.

use std::ffi::{c_int, c_void, CStr};
use std::ptr;

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;

/// Ids (int32) or places (int64) in one piece of memory, which numpy takes over as it is.
#[pyclass(frozen, module = "mccore_rustbpe")]
pub struct TokenBuffer {
    numbers: Numbers,
    shape: [ffi::Py_ssize_t; 1],
    strides: [ffi::Py_ssize_t; 1],
}

enum Numbers {
    Ids(Memory<u32>),
    Places(Memory<i64>),
}

/// A vector that only Python looks at from now on, and may write to.
struct Memory<T> {
    start: *mut T,
    length: usize,
    capacity: usize,
}

// Nothing here is touched from Rust between making and dropping it.
unsafe impl<T: Send> Send for Memory<T> {}
unsafe impl<T: Sync> Sync for Memory<T> {}

impl<T> Memory<T> {
    fn new(mut numbers: Vec<T>) -> Self {
        numbers.shrink_to_fit();
        let mut numbers = std::mem::ManuallyDrop::new(numbers);
        Self { start: numbers.as_mut_ptr(), length: numbers.len(), capacity: numbers.capacity() }
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        // The three parts are of one vector.
        drop(unsafe { Vec::from_raw_parts(self.start, self.length, self.capacity) });
    }
}

impl TokenBuffer {
    pub fn ids(ids: Vec<u32>) -> Self {
        Self { shape: [ids.len() as _], strides: [size_of::<u32>() as _], numbers: Numbers::Ids(Memory::new(ids)) }
    }

    pub fn places(places: Vec<i64>) -> Self {
        let shape = [places.len() as _];
        Self { shape, strides: [size_of::<i64>() as _], numbers: Numbers::Places(Memory::new(places)) }
    }
}

#[pymethods]
impl TokenBuffer {
    fn __len__(&self) -> usize {
        self.shape[0] as usize
    }

    fn __repr__(&self) -> String {
        let kind = match self.numbers {
            Numbers::Ids(_) => "int32",
            Numbers::Places(_) => "int64",
        };
        format!("TokenBuffer({} x {kind})", self.shape[0])
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        const INT32: &CStr = c"i";
        const INT64: &CStr = c"q";
        if view.is_null() {
            return Err(PyBufferError::new_err("no view to fill"));
        }
        let this = slf.get();
        let (start, format) = match &this.numbers {
            Numbers::Ids(memory) => (memory.start.cast::<c_void>(), INT32),
            Numbers::Places(memory) => (memory.start.cast::<c_void>(), INT64),
        };
        let asks = |flag: c_int| flags & flag == flag;
        // `this` is frozen and kept alive by the view's reference, so what is pointed to stays.
        unsafe {
            (*view).buf = start;
            (*view).len = this.shape[0] * this.strides[0];
            (*view).readonly = 0;
            (*view).itemsize = this.strides[0];
            (*view).format = if asks(ffi::PyBUF_FORMAT) { format.as_ptr().cast_mut() } else { ptr::null_mut() };
            (*view).ndim = 1;
            (*view).shape = if asks(ffi::PyBUF_ND) { this.shape.as_ptr().cast_mut() } else { ptr::null_mut() };
            (*view).strides = if asks(ffi::PyBUF_STRIDES) { this.strides.as_ptr().cast_mut() } else { ptr::null_mut() };
            (*view).suboffsets = ptr::null_mut();
            (*view).internal = ptr::null_mut();
            (*view).obj = slf.into_any().into_ptr();
        }
        Ok(())
    }
}
