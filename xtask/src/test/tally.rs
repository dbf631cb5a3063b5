//! Counting what passed, failed and was skipped.

/// Results so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: usize,
    failures: Vec<(String, String)>,
    skipped: Vec<(String, String)>,
}

impl Tally {
    /// Counts a test that passed.
    pub(crate) fn pass(&mut self, name: &str) {
        self.passed += 1;
        println!("ok      {name}");
    }

    /// Counts a test that passed without a line of its own.
    pub(crate) fn pass_quietly(&mut self) {
        self.passed += 1;
    }

    /// Counts a test that failed; the reason is shown at the end too.
    pub(crate) fn fail(&mut self, name: &str, reason: impl Into<String>) {
        println!("FAILED  {name}");
        self.failures.push((name.to_owned(), reason.into()));
    }

    /// Counts a test that was not run, for lack of the thing named.
    pub(crate) fn skip(&mut self, name: &str, lacking: &str) {
        println!("skipped {name}: {lacking}");
        self.skipped.push((name.to_owned(), lacking.to_owned()));
    }

    /// How many passed.
    pub(crate) fn passed(&self) -> usize {
        self.passed
    }

    /// How many failed.
    pub(crate) fn failed(&self) -> usize {
        self.failures.len()
    }

    /// How many were skipped.
    pub(crate) fn skipped(&self) -> usize {
        self.skipped.len()
    }

    /// Shows each failure with its reason.
    pub(crate) fn print_failures(&self) {
        for (name, reason) in &self.failures {
            println!("\n--- {name}\n{}", reason.trim_end());
        }
        if !self.failures.is_empty() {
            println!();
        }
    }

    /// `N passed, N failed`, and `, N skipped` where something was.
    pub(crate) fn closing_line(&self) -> String {
        let mut line = format!("{} passed, {} failed", self.passed, self.failures.len());
        if !self.skipped.is_empty() {
            line.push_str(&format!(", {} skipped", self.skipped.len()));
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line_names_what_was_skipped_only_if_something_was() {
        let mut tally = Tally::default();
        tally.pass("a");
        tally.pass_quietly();
        tally.fail("b", "it broke");
        assert_eq!(tally.closing_line(), "2 passed, 1 failed");
        tally.skip("c", "no moon");
        assert_eq!(tally.closing_line(), "2 passed, 1 failed, 1 skipped");
    }
}
