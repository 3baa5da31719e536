//! Looking again and again.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use overlay_pool::api::{Client, ClientError};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use super::look::Look;
use crate::commands::exit::Exit;
use crate::commands::failure::Failure;
use crate::commands::{Answer, text};

/// How long a look may take before the server counts as gone.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Shows the server's figures until it is interrupted, or until nobody reads them any more.
pub(super) async fn watch(client: Client, every: Duration, json: bool) -> Result<Answer, Failure> {
    let client = client.with_timeout(TIMEOUT);
    let signal = |kind| {
        signal(kind).map_err(|error| Failure::new(Exit::Failed, error, "raise the limit of files"))
    };
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut view = View::new(&client, every, json);
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let looking = async {
        loop {
            ticks.tick().await;
            view.show(Look::at(&client).await)?;
        }
    };
    let ended: io::Result<()> = tokio::select! {
        ended = looking => ended,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    view.end();
    match ended {
        // Whoever closed the pipe has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let cause = format!("can't write to standard output: {error}");
            Err(Failure::new(Exit::Failed, cause, "make room, or write elsewhere"))
        }
        _ => Ok(Answer::default()),
    }
}

/// Where looks are shown.
struct View {
    form: Form,
    /// The last look that succeeded.
    last: Option<Look>,
    /// Whether the last look failed.
    gone: bool,
}

enum Form {
    /// Drawn anew in place, on a terminal, under a line of its own.
    Live(ProgressBar, String),
    Blocks,
    Json,
}

impl View {
    fn new(client: &Client, every: Duration, json: bool) -> Self {
        let form = if json {
            Form::Json
        } else if io::stdout().is_terminal() {
            let socket = text::escaped_path(client.socket());
            let head = format!("{socket}, every {} s; Ctrl-C ends", every.as_secs_f64());
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
            let style = ProgressStyle::with_template("{msg}");
            Form::Live(bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())), head)
        } else {
            Form::Blocks
        };
        Self { form, last: None, gone: false }
    }

    fn show(&mut self, look: Result<Look, ClientError>) -> io::Result<()> {
        let gone = look.as_ref().err().map(|error| text::escaped(&error.to_string()));
        let look = look.ok();
        if let Form::Live(bar, head) = &self.form {
            let shown = match (&look, &self.last) {
                (Some(look), last) => look.since(last.as_ref()).to_string(),
                (None, Some(last)) => last.to_string(),
                (None, None) => String::new(),
            };
            let gone = gone.as_deref().map(|gone| format!("{gone}; trying again\n"));
            let parts = [Some(head.as_str()), gone.as_deref(), Some(&shown)].into_iter().flatten();
            let frame = parts.map(str::trim_end).filter(|part| !part.is_empty());
            bar.set_message(frame.collect::<Vec<_>>().join("\n\n"));
        } else {
            self.print(look.as_ref(), gone.as_deref())?;
        }
        self.gone = gone.is_some();
        // Rates are of the time between two looks at one server.
        if look.is_some() {
            self.last = look;
        }
        Ok(())
    }

    /// One line or block to standard output, or, once, that the server is gone to standard error.
    fn print(&self, look: Option<&Look>, gone: Option<&str>) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match (&self.form, look) {
            (Form::Json, Some(look)) => out.write_all(look.json().as_bytes())?,
            (_, Some(look)) => writeln!(out, "{}", look.since(self.last.as_ref()))?,
            (_, None) if !self.gone => {
                let _ = writeln!(
                    io::stderr(),
                    "overlay-pool: {}; trying again",
                    gone.unwrap_or_default()
                );
            }
            (_, None) => {}
        }
        out.flush()
    }

    /// What is on the terminal stays there.
    fn end(&self) {
        if let Form::Live(bar, _) = &self.form {
            bar.abandon();
        }
    }
}
