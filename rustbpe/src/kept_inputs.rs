//! Inputs that fuzzing found or that were thought of, checked again every time. Among the unit tests, because a test beside
//! them would have the whole crate compiled once more.

#[path = "../fuzz/check.rs"]
mod check;

use std::path::Path;

#[test]
fn kept_inputs_hold() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/inputs");
    let mut checked = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        check::check(&std::fs::read(entry.unwrap().path()).unwrap());
        checked += 1;
    }
    assert!(checked > 10);
}
