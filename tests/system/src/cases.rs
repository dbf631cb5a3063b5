//! All system tests.

use crate::case::{Case, Pattern};

/// Every system test.
pub fn all() -> Vec<Case> {
    vec![broken_configuration()]
}

/// Every mistake of a configuration is reported at once, with its place, and nothing starts.
fn broken_configuration() -> Case {
    let text = "at_end = \"never\"\n[[vm]]\nname = \"a\"\ncpus = [0]\nmemory = \"3M\"\ncolour = 1\nimage = { multiboot = { image = \"x\" } }\n";
    Case::new("broken-configuration", text)
        .stays()
        .expect(Pattern::boot("line 1 ... at_end"))
        .expect(Pattern::boot("line 5 ... memory"))
        .expect(Pattern::boot("line 6 ... colour"))
}
