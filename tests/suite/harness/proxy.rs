//! A proxy of TCP that does to connections what networks do.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// In front of a server, on a loopback port of its own.
pub(crate) struct Proxy {
    address: SocketAddr,
    line: Arc<Line>,
}

/// What is done to all connections together. All counts are of bytes on their way to clients.
#[derive(Default)]
struct Line {
    passed: AtomicU64,
    /// Where the connection that gets there is cut; 0 is nowhere.
    cut: AtomicU64,
    /// Whether all that come there later are cut too.
    severed: AtomicBool,
    /// Where all stop, until it is moved.
    stop: AtomicU64,
    /// How many milliseconds each part takes.
    slow: AtomicU64,
}

impl Proxy {
    /// Starts one in front of `server`. Its threads end with the test.
    pub(crate) fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let line = Arc::new(Line { stop: u64::MAX.into(), ..Line::default() });
        let of_all = Arc::clone(&line);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(server) else { continue };
                let line = Arc::clone(&of_all);
                let ends = [&client, &server].map(|end| end.try_clone().expect("a socket"));
                std::thread::spawn(move || {
                    let [mut from, mut to] = ends;
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
                std::thread::spawn(move || line.carry(server, client));
            }
        });
        Self { address, line }
    }

    /// A reference of an image of the server's, by this way.
    pub(crate) fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// How many bytes went to clients.
    pub(crate) fn passed(&self) -> u64 {
        self.line.passed.load(SeqCst)
    }

    /// Cuts the connection that carries the `after`-th byte from now on, and no other.
    pub(crate) fn cut(&self, after: u64) {
        self.line.cut.store(self.passed() + after, SeqCst);
    }

    /// Cuts all connections after so many bytes from now on.
    pub(crate) fn sever(&self, after: u64) {
        self.line.severed.store(true, SeqCst);
        self.cut(after);
    }

    /// Carries so many bytes from now on and then none.
    pub(crate) fn stop(&self, after: u64) {
        self.line.stop.store(self.passed() + after, SeqCst);
    }

    /// Whether it carries none any more.
    pub(crate) fn is_stopped(&self) -> bool {
        self.passed() >= self.line.stop.load(SeqCst)
    }

    /// Carries again.
    pub(crate) fn go_on(&self) {
        self.line.severed.store(false, SeqCst);
        self.line.cut.store(0, SeqCst);
        self.line.stop.store(u64::MAX, SeqCst);
    }

    /// Takes its time for each part.
    pub(crate) fn slow_down(&self, milliseconds: u64) {
        self.line.slow.store(milliseconds, SeqCst);
    }
}

impl Line {
    fn carry(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut part = vec![0; 16 << 10];
        while let Ok(read @ 1..) = from.read(&mut part) {
            while self.passed.load(SeqCst) >= self.stop.load(SeqCst) {
                std::thread::sleep(Duration::from_millis(2));
            }
            std::thread::sleep(Duration::from_millis(self.slow.load(SeqCst)));
            let cut = self.cut.load(SeqCst);
            if cut > 0 && self.passed.load(SeqCst) + read as u64 >= cut {
                if !self.severed.load(SeqCst) {
                    self.cut.store(0, SeqCst);
                }
                break;
            }
            if to.write_all(&part[..read]).is_err() {
                break;
            }
            self.passed.fetch_add(read as u64, SeqCst);
        }
        for end in [from, to] {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

/// A server of HTTP that says the same to everybody: a head, and a body that goes on with zeros for
/// so many bytes. It notes the first line of each request.
pub(crate) struct Liar {
    pub(crate) address: SocketAddr,
    pub(crate) asked: Arc<std::sync::Mutex<Vec<String>>>,
}

impl Liar {
    pub(crate) fn start(head: String, zeros: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let asked = Arc::default();
        let liar = Self { address, asked: Arc::clone(&asked) };
        std::thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                let mut request = Vec::new();
                let mut part = [0; 1024];
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    match client.read(&mut part) {
                        Ok(read @ 1..) => request.extend_from_slice(&part[..read]),
                        _ => break,
                    }
                }
                let request = String::from_utf8_lossy(&request).into_owned();
                let line = request.lines().next().unwrap_or_default().to_owned();
                asked.lock().expect("a list").push(line);
                let _ = client.write_all(head.as_bytes());
                let _ = std::io::copy(&mut std::io::repeat(0).take(zeros), &mut client);
            }
        });
        liar
    }
}
