//! Progress on a terminal as a moving line, elsewhere as plain lines.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// One step of work, shown while it lasts.
pub(crate) struct Step {
    bar: Option<ProgressBar>,
    title: String,
    length: u64,
}

impl Step {
    /// Shows the beginning of a step of `length` units (0: unknown).
    pub(crate) fn begin(title: impl Into<String>, length: u64) -> Self {
        let title = title.into();
        if !stderr().is_terminal() {
            eprintln!("{title}");
            return Self { bar: None, title, length };
        }
        let bar = if length == 0 { ProgressBar::new_spinner() } else { ProgressBar::new(length) };
        let template =
            if length == 0 { "{spinner} {msg} [{elapsed}]" } else { "{bar:24} {pos:>3}/{len} {msg} [{elapsed}]" };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(title.clone());
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar: Some(bar), title, length }
    }

    /// Moves the display to `position` of the step's length.
    pub(crate) fn at(&self, position: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(position.min(self.length));
        }
    }

    /// Prints lines above the moving line.
    pub(crate) fn suspended(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Replaces the moving line by a plain one that stays.
    pub(crate) fn end(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            eprintln!("{} [{} s]", self.title, bar.elapsed().as_secs());
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
