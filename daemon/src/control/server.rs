//! Listens on the control socket and hands each request to the service.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::unistd::{Gid, Group, chown};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, spawn_local};
use tokio::time::{sleep, timeout};

use super::{Command, LINE_MAX, Reply, Request, SOCKET, VERSION};

/// Connections at a time: people and a status page.
const CONNECTIONS_MAX: usize = 32;

/// A connection that says nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(60);

/// How long the service may take for an answer.
const ANSWER: Duration = Duration::from_secs(10);

/// A refused accept (no file descriptors left) is tried again after this.
const PAUSE: Duration = Duration::from_millis(200);

/// The group that may use the socket, if the system has it.
const GROUP: &str = "piparallel";

/// A request, and where its reply goes.
pub struct Asked {
    pub command: Command,
    pub reply: oneshot::Sender<Reply>,
}

/// The socket; removed when dropped.
pub struct Server {
    path: PathBuf,
    requests: mpsc::Receiver<Asked>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Makes the run directory and the socket. Must be called inside of a `LocalRuntime`.
    ///
    /// # Errors
    /// Another service has the socket, or it cannot be made.
    pub fn listen(run_dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(run_dir)
            .with_context(|| format!("cannot make {} (see run_dir)", run_dir.display()))?;
        let path = run_dir.join(SOCKET);
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            bail!(
                "a node already runs here: {} answers (stop it, or give this one a run_dir of its own)",
                path.display()
            );
        }
        // What is left of a service that was killed.
        let _ = fs::remove_file(&path);
        let listener = bind(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let (sender, requests) = mpsc::channel(CONNECTIONS_MAX);
        let task = spawn_local(accept(listener, sender));
        Ok(Self {
            path,
            requests,
            task,
        })
    }

    /// The next request. Nothing is lost if the future is dropped.
    pub async fn next_request(&mut self) -> Asked {
        match self.requests.recv().await {
            Some(asked) => asked,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        let _ = fs::remove_file(&self.path);
    }
}

/// Nobody can connect before the permissions are right: until then the socket has another name.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let hidden = path.with_extension(format!("new-{}", std::process::id()));
    let _ = fs::remove_file(&hidden);
    let listener = UnixListener::bind(&hidden)?;
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o660))?;
    if let Ok(Some(Group { gid, .. })) = Group::from_name(GROUP)
        && gid != Gid::current()
    {
        // Without the right to do so, the socket is for this user alone.
        let _ = chown(&hidden, None, Some(gid));
    }
    fs::rename(&hidden, path)?;
    Ok(listener)
}

async fn accept(listener: UnixListener, requests: mpsc::Sender<Asked>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
            continue;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn_local(serve(stream, requests.clone()));
            }
            Err(cause) => {
                log::warn!("the control socket accepts nobody: {cause}");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn serve(stream: UnixStream, requests: mpsc::Sender<Asked>) {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    while let Ok(Ok(Some(line))) = timeout(IDLE, next_line(&mut read)).await {
        let reply = answer(&line, &requests).await;
        if send(&mut write, &reply).await.is_err() {
            break;
        }
    }
}

/// A whole line; none at the end, or if it is longer than one may be.
async fn next_line(read: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    read.take(LINE_MAX).read_until(b'\n', &mut line).await?;
    Ok(line.ends_with(b"\n").then_some(line))
}

async fn answer(line: &[u8], requests: &mpsc::Sender<Asked>) -> Reply {
    let request: Request = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(cause) => return Reply::Error(format!("this is no request: {cause}")),
    };
    if request.version != VERSION {
        return Reply::Error(format!(
            "the service speaks version {VERSION} of the control protocol, not {} (restart it: systemctl \
             restart piparallel)",
            request.version
        ));
    }
    let (reply, answered) = oneshot::channel();
    let asked = Asked {
        command: request.command,
        reply,
    };
    let exchange = async {
        requests.send(asked).await.ok()?;
        answered.await.ok()
    };
    match timeout(ANSWER, exchange).await {
        Ok(Some(reply)) => reply,
        Ok(None) => Reply::Error("the service is stopping".to_owned()),
        Err(_) => Reply::Error("the service does not answer (is it overloaded?)".to_owned()),
    }
}

async fn send(write: &mut OwnedWriteHalf, reply: &Reply) -> io::Result<()> {
    let mut text = serde_json::to_vec(reply)?;
    text.push(b'\n');
    write.write_all(&text).await
}

#[cfg(test)]
mod tests {
    use super::super::client;
    use super::*;
    use serde_json::json;
    use tokio::runtime::LocalOptions;

    fn run(test: impl Future<Output = ()>) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build_local(LocalOptions::default());
        runtime.unwrap().block_on(test);
    }

    async fn ask_raw(path: &Path, line: &str) -> Reply {
        let mut stream = UnixStream::connect(path).await.unwrap();
        stream.write_all(line.as_bytes()).await.unwrap();
        let mut text = String::new();
        BufReader::new(stream).read_line(&mut text).await.unwrap();
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn requests_are_answered_and_the_socket_is_private() {
        run(async {
            let dir = tempfile::tempdir().unwrap();
            let run_dir = dir.path().to_owned();
            let mut server = Server::listen(&run_dir).unwrap();
            let mode = fs::metadata(run_dir.join(SOCKET))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o660);
            assert!(Server::listen(&run_dir).is_err(), "there is one already");
            let asking = tokio::task::spawn_blocking(move || {
                client::ask(
                    &run_dir,
                    Command::Approve {
                        node: "pi".to_owned(),
                    },
                )
            });
            let asked = server.next_request().await;
            assert_eq!(
                asked.command,
                Command::Approve {
                    node: "pi".to_owned()
                }
            );
            asked.reply.send(Reply::Ok(json!({"name": "pi"}))).unwrap();
            assert_eq!(asking.await.unwrap().unwrap(), json!({"name": "pi"}));
            drop(server);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        });
    }

    #[test]
    fn what_cannot_be_understood_is_answered_with_an_error() {
        run(async {
            let dir = tempfile::tempdir().unwrap();
            let _server = Server::listen(dir.path()).unwrap();
            let path = dir.path().join(SOCKET);
            for (line, part) in [
                ("nonsense\n", "no request"),
                ("{\"version\":1,\"command\":\"explode\"}\n", "explode"),
                ("{\"version\":9,\"command\":\"nodes\"}\n", "restart"),
            ] {
                let Reply::Error(text) = ask_raw(&path, line).await else {
                    panic!("accepted {line}");
                };
                assert!(text.contains(part), "{text}");
            }
        });
    }

    #[test]
    fn without_a_service_the_error_says_how_to_start_one() {
        let dir = tempfile::tempdir().unwrap();
        let error = client::ask(dir.path(), Command::Nodes).unwrap_err();
        assert!(format!("{error:#}").contains("systemctl start piparallel"));
    }
}
