//! A terminal of its own for a program under test: tmux, whose server has a socket in a scratch
//! folder and no configuration but this.

use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// The programs that it needs.
pub const TOOLS: [&str; 2] = ["tmux", "stty"];

/// A terminal in which a program runs.
pub struct Terminal {
    folder: TempDir,
}

/// What the terminal is like after the program.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Left {
    /// The status of the program as a shell has it: above 128 for a signal.
    pub code: i32,
    /// Whether line discipline, screen and cursor are as they were before it.
    pub is_restored: bool,
    /// The screen.
    pub screen: String,
}

/// How often a screen is read while something is awaited, and how many times.
const READ_EVERY: Duration = Duration::from_millis(50);
const READS_MAX: usize = 1_200;
/// What the screen shows before the program runs.
const BEFORE: &str = "before the program";

impl Terminal {
    /// Starts a program, given as a shell command with environment and arguments, in a terminal of
    /// this size. `enter` is what runs tmux itself, for example in a namespace.
    ///
    /// # Errors
    ///
    /// If tmux does not start.
    pub fn start(
        enter: impl FnOnce(&str) -> Command,
        (columns, lines): (u16, u16),
        program: &str,
    ) -> Result<Self> {
        let folder = TempDir::new()?;
        let at = folder.path().display();
        let configuration = folder.path().join("tmux.conf");
        fs::write(
            &configuration,
            "set -g status off\nset -g escape-time 0\nset -g default-terminal screen-256color\n",
        )?;
        let script = format!(
            "trap : HUP; echo '{BEFORE}'; stty -g >{at}/before; \
             sh -c 'echo $$ >{at}/id; exec env {program}'; \
             code=$?; stty -g >{at}/after; echo $code >{at}/code.new; \
             mv {at}/code.new {at}/code; cat"
        );
        let mut tmux = enter("tmux");
        tmux.arg("-f").arg(&configuration);
        tmux.arg("-S").arg(folder.path().join("socket"));
        tmux.args(["new-session", "-d"]);
        tmux.args(["-x", &columns.to_string(), "-y", &lines.to_string()]);
        let output = tmux.arg(script).output().context("tmux")?;
        ensure!(output.status.success(), "tmux: {output:?}");
        Ok(Self { folder })
    }

    /// The lines of the screen, without the blanks at their ends.
    ///
    /// # Errors
    ///
    /// If tmux does not answer.
    pub fn screen(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p"])
    }

    /// The same with escape sequences for colours.
    ///
    /// # Errors
    ///
    /// If tmux does not answer.
    pub fn screen_with_styles(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p", "-e"])
    }

    /// Waits until the screen is as expected, and returns it.
    ///
    /// # Errors
    ///
    /// If it does not become so within a minute; the error has the last screen.
    pub fn wait_for(&self, expected: impl Fn(&str) -> bool) -> Result<String> {
        for _ in 0..READS_MAX {
            let screen = self.screen()?;
            if expected(&screen) {
                return Ok(screen);
            }
            thread::sleep(READ_EVERY);
        }
        bail!("not as expected:\n{}", self.screen()?)
    }

    /// Types a text.
    ///
    /// # Errors
    ///
    /// If tmux does not answer.
    pub fn type_text(&self, text: &str) -> Result<()> {
        self.tmux(&["send-keys", "-l", text]).map(drop)
    }

    /// Presses a key, by the name that tmux has for it: `Enter`, `Tab`, `C-c`.
    ///
    /// # Errors
    ///
    /// If tmux does not answer.
    pub fn press(&self, key: &str) -> Result<()> {
        self.tmux(&["send-keys", key]).map(drop)
    }

    /// Gives the terminal another size.
    ///
    /// # Errors
    ///
    /// If tmux does not answer.
    pub fn resize(&self, (columns, lines): (u16, u16)) -> Result<()> {
        let (columns, lines) = (columns.to_string(), lines.to_string());
        self.tmux(&["resize-window", "-x", &columns, "-y", &lines])
            .map(drop)
    }

    /// Process id of the program.
    ///
    /// # Errors
    ///
    /// If it has not started.
    pub fn id(&self) -> Result<i32> {
        let id = fs::read_to_string(self.file("id"))?;
        Ok(id.trim().parse()?)
    }

    /// Waits for the end of the program.
    ///
    /// # Errors
    ///
    /// If it does not end within a minute.
    pub fn wait(&self) -> Result<Left> {
        let code = self.wait_for_code()?;
        let read = |name| fs::read_to_string(self.file(name));
        let flags = "#{alternate_on} #{cursor_flag} #{mouse_any_flag}";
        let flags = self.tmux(&["display-message", "-p", flags])?;
        let screen = self.screen()?;
        Ok(Left {
            code,
            is_restored: read("before")? == read("after")?
                && flags.trim() == "0 1 0"
                && screen.starts_with(BEFORE),
            screen,
        })
    }

    /// Takes the terminal away, and returns the status with which the program ends.
    ///
    /// # Errors
    ///
    /// If it does not end within a minute.
    pub fn hang_up(self) -> Result<i32> {
        self.tmux(&["kill-server"])?;
        self.wait_for_code()
    }

    fn wait_for_code(&self) -> Result<i32> {
        let file = self.file("code");
        for _ in 0..READS_MAX {
            if file.exists() {
                return Ok(fs::read_to_string(&file)?.trim().parse()?);
            }
            thread::sleep(READ_EVERY);
        }
        bail!("still running")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn tmux(&self, arguments: &[&str]) -> Result<String> {
        let mut tmux = Command::new("tmux");
        tmux.arg("-S").arg(self.file("socket")).args(arguments);
        let output = tmux.output().context("tmux")?;
        ensure!(output.status.success(), "tmux {arguments:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.tmux(&["kill-server"]);
    }
}
