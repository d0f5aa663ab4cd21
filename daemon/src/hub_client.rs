//! Asks a hub, as a client does: a signed request on `registration`, one reply.

use std::io::IoSlice;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use piparallel_core::channel::SocketType;
use piparallel_core::limits::MESSAGE_BYTES_MAX;
use piparallel_core::wire::date;
use piparallel_core::wire::header::Header;
use piparallel_core::wire::message::{DELIMITER, Message};
use piparallel_core::wire::sign::Signer;
use piparallel_core::wire::zmtp::{self, Mechanism, Outbox, PublicKey, ReadPool, SecretKey};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use zeromq::{DealerSocket, Socket as _, SocketRecv as _, SocketSend as _, ZmqMessage};

use crate::controller::claim::registration_address;
use crate::random;

/// How long a hub may take for an answer before it counts as stuck.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to one hub.
pub struct HubClient {
    link: Link,
    signer: Signer,
    session: String,
    requests: u32,
}

enum Link {
    Encrypted(Box<EncryptedLink>),
    Plain(DealerSocket),
}

impl HubClient {
    /// Connects with what a client's connection file says.
    ///
    /// # Errors
    /// The file lacks something, or nobody answers.
    pub async fn connect(file: &Map<String, Value>) -> anyhow::Result<Self> {
        let text = |key: &str| file.get(key).and_then(Value::as_str);
        let address = registration_address(file)
            .context("the connection file names no address that can be used (is it damaged?)")?;
        let link = match text("curve_serverkey") {
            Some(serverkey) => {
                let endpoint = address.to_string();
                let connect = EncryptedLink::connect(&endpoint, serverkey);
                let link = tokio::time::timeout(REPLY_TIMEOUT, connect)
                    .await
                    .with_context(|| format!("the controller at {address} does not answer"))??;
                Link::Encrypted(Box::new(link))
            }
            None => {
                let mut socket = DealerSocket::new();
                let endpoint = format!("tcp://{address}");
                tokio::time::timeout(REPLY_TIMEOUT, socket.connect(&endpoint))
                    .await
                    .with_context(|| format!("the controller at {address} does not answer"))?
                    .with_context(|| format!("cannot connect to the controller at {address}"))?;
                Link::Plain(socket)
            }
        };
        let random = random::bytes()?;
        Ok(Self {
            link,
            signer: Signer::new(text("key").unwrap_or_default().as_bytes()),
            session: format!("piparallel-{:016x}", u64::from_le_bytes(random)),
            requests: 0,
        })
    }

    /// The state of the pool, as the hub tells it.
    ///
    /// # Errors
    /// No answer, or one of a controller that does not know the question.
    pub async fn status(&mut self) -> anyhow::Result<Value> {
        let (msg_type, content) = self.ask("status_request", &json!({})).await?;
        if msg_type != "status_reply" || content.get("status") != Some(&json!("ok")) {
            bail!("the controller does not tell its status (is it a stock ipcontroller?)");
        }
        Ok(content)
    }

    async fn ask(&mut self, msg_type: &str, content: &Value) -> anyhow::Result<(String, Value)> {
        self.requests += 1;
        let msg_id = format!("{}_{}", self.session, self.requests);
        let frames = self.request(msg_type, &msg_id, content);
        let exchange = async {
            self.link.send(frames).await?;
            loop {
                let message = Message::parse(self.link.recv().await?)
                    .context("the reply is no message of a hub")?;
                // A reply to an earlier request that was given up.
                if Header::parse(message.parent_header())?.msg_id == msg_id {
                    return anyhow::Ok(message);
                }
            }
        };
        let message = tokio::time::timeout(REPLY_TIMEOUT, exchange)
            .await
            .context("the controller does not answer (is it stopped or overloaded?)")??;
        self.signer
            .verify(message.signature(), message.signed_parts())
            .context("the reply is not trustworthy")?;
        let header = Header::parse(message.header())?;
        Ok((
            header.msg_type.into_owned(),
            serde_json::from_slice(message.content())?,
        ))
    }

    fn request(&self, msg_type: &str, msg_id: &str, content: &Value) -> Vec<Bytes> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let header = json!({
            "msg_id": msg_id,
            "msg_type": msg_type,
            "username": "piparallel",
            "session": self.session,
            "date": date::format(i64::try_from(now.as_micros()).unwrap_or(0)),
            "version": "5.4",
        });
        let empty = || Bytes::from_static(b"{}");
        let parts = [
            Bytes::from(header.to_string()),
            empty(),
            empty(),
            Bytes::from(content.to_string()),
        ];
        let signature = self.signer.sign(&parts);
        [Bytes::from_static(DELIMITER), signature]
            .into_iter()
            .chain(parts)
            .collect()
    }
}

/// A connection of our own ZMTP: the `zeromq` crate has no CURVE.
struct EncryptedLink {
    stream: TcpStream,
    link: zmtp::Link,
    outbox: Outbox,
    pool: ReadPool,
}

impl EncryptedLink {
    /// Connects with a key pair made for this connection.
    async fn connect(address: &str, serverkey: &str) -> anyhow::Result<Self> {
        let server = PublicKey::from_z85(serverkey)
            .context("curve_serverkey of the connection file is no CURVE key (is it damaged?)")?;
        let entropy = random::bytes()?;
        let config = zmtp::Config {
            socket_type: SocketType::Dealer,
            identity: Bytes::new(),
            mechanism: Mechanism::CurveClient {
                secret: SecretKey::new(random::bytes()?),
                server,
            },
            message_bytes_max: MESSAGE_BYTES_MAX,
        };
        let mut outbox = Outbox::new();
        let link = zmtp::Link::new(config, &entropy, &mut outbox);
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("cannot connect to the controller at {address}"))?;
        let mut this = Self {
            stream,
            link,
            outbox,
            pool: ReadPool::default(),
        };
        while !matches!(this.event().await?, zmtp::Event::Ready { .. }) {}
        Ok(this)
    }

    /// Writes what waits and reads until something happens.
    async fn event(&mut self) -> anyhow::Result<zmtp::Event> {
        loop {
            while !self.outbox.is_empty() {
                let written = {
                    let mut slices = [IoSlice::new(&[]); 16];
                    let count = self.outbox.fill_slices(&mut slices);
                    self.stream.write_vectored(&slices[..count]).await?
                };
                self.outbox.advance(written);
            }
            let event = self.link.poll_event(&mut self.outbox);
            if let Some(event) = event.context("the controller refused the encrypted connection")? {
                return Ok(event);
            }
            if self.outbox.is_empty()
                && self
                    .stream
                    .read_buf(&mut self.link.space(&mut self.pool))
                    .await?
                    == 0
            {
                bail!(
                    "the controller closed the connection (does the file belong to another controller?)"
                );
            }
        }
    }

    async fn recv(&mut self) -> anyhow::Result<Vec<Bytes>> {
        loop {
            if let zmtp::Event::Message(frames) = self.event().await? {
                return Ok(frames.into());
            }
        }
    }
}

impl Link {
    async fn send(&mut self, frames: Vec<Bytes>) -> anyhow::Result<()> {
        match self {
            Self::Encrypted(link) => {
                link.link.encode(&frames.into(), &mut link.outbox);
                Ok(())
            }
            Self::Plain(socket) => {
                let message = ZmqMessage::try_from(frames)
                    .map_err(|e| anyhow::anyhow!("a request without frames: {e}"))?;
                socket.send(message).await.context("the controller is gone")
            }
        }
    }

    async fn recv(&mut self) -> anyhow::Result<Vec<Bytes>> {
        match self {
            Self::Encrypted(link) => link.recv().await,
            Self::Plain(socket) => {
                let message = socket.recv().await.context("the controller is gone")?;
                Ok(message.into_vec())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use piparallel_core::wire::message::SignedPart;
    use zeromq::RouterSocket;

    fn file(port: u16) -> Map<String, Value> {
        let json = json!({"interface": "tcp://127.0.0.1", "registration": port, "key": "k"});
        json.as_object().unwrap().clone()
    }

    async fn hub() -> (RouterSocket, u16) {
        let mut hub = RouterSocket::new();
        let endpoint = hub.bind("tcp://127.0.0.1:0").await.unwrap().to_string();
        let port = endpoint.rsplit(':').next().unwrap().parse().unwrap();
        (hub, port)
    }

    /// Answers one request with `content`, signed with `key`.
    async fn answer(mut hub: RouterSocket, key: &str, msg_type: &str, content: Value) {
        let request = hub.recv().await.unwrap().into_vec();
        let message = Message::parse(request).unwrap();
        assert!(
            Signer::new(b"k")
                .verify(message.signature(), message.signed_parts())
                .is_ok()
        );
        let header = json!({"msg_id": "x", "msg_type": msg_type}).to_string();
        let parts = [
            Bytes::from(header),
            message.bytes(SignedPart::Header),
            Bytes::from("{}"),
            Bytes::from(content.to_string()),
        ];
        let signature = Signer::new(key.as_bytes()).sign(&parts);
        let mut frames = vec![
            message.route().unwrap(),
            Bytes::from_static(DELIMITER),
            signature,
        ];
        frames.extend(parts);
        hub.send(ZmqMessage::try_from(frames).unwrap())
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    async fn ask(key: &'static str, msg_type: &'static str) -> anyhow::Result<Value> {
        let (hub, port) = hub().await;
        let content = json!({"status": "ok", "pid": 7});
        let answering = tokio::spawn(answer(hub, key, msg_type, content));
        let reply = HubClient::connect(&file(port)).await?.status().await;
        answering.await.unwrap();
        reply
    }

    #[tokio::test]
    async fn a_hub_is_asked_and_answers() {
        assert_eq!(ask("k", "status_reply").await.unwrap()["pid"], 7);
    }

    #[tokio::test]
    async fn answers_of_others_are_refused() {
        let error = ask("wrong", "status_reply").await.unwrap_err();
        assert!(error.to_string().contains("not trustworthy"), "{error}");
        let error = ask("k", "hub_error").await.unwrap_err();
        assert!(error.to_string().contains("stock"), "{error}");
    }
}
