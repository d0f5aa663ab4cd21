//! The task of one connection: reads and decodes, and writes what a flush left behind.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use log::debug;
use piparallel_core::channel::SocketType;
use piparallel_core::limits::LARGE_FRAME;
use piparallel_core::wire::zmtp::{self, Link, Outbox};
use tokio::io::AsyncReadExt;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::{Sleep, sleep};

use super::Event;
use super::limits::{SUBSCRIPTIONS_MAX, TURN_BYTES};
use super::peer::{End, Peer, lost_connection};
use super::refusal::Refusal;
use super::shared::Shared;

pub(super) struct Connection {
    shared: Rc<Shared>,
    peer: Rc<Peer>,
    read: OwnedReadHalf,
    /// Bytes of a message that has not come in full, as counted in the total.
    partial: usize,
    /// Whether anything came.
    spoke: bool,
    /// Whether the handshake is done.
    ready: bool,
    /// Until it is done: its end. Later: the end of patience with a client that does not read.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    pub(super) fn new(shared: Rc<Shared>, peer: Rc<Peer>, read: OwnedReadHalf) -> Self {
        let timer = Some(Box::pin(sleep(shared.limits.handshake)));
        Self {
            shared,
            peer,
            read,
            partial: 0,
            spoke: false,
            ready: false,
            timer,
        }
    }

    /// Serves the connection until it ends.
    pub(super) async fn run(mut self) {
        let end = poll_fn(|cx| self.poll(cx)).await;
        self.finish(end);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.peer.set_task(cx.waker());
        if let Some(end) = self.peer.take_end() {
            return Poll::Ready(end);
        }
        let end = self.poll_read(cx);
        if end.is_ready() {
            return end;
        }
        if self.peer.task_writes() {
            let end = self.poll_write(cx);
            if end.is_ready() {
                return end;
            }
        }
        self.poll_timer(cx)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let mut left = TURN_BYTES;
        while self.may_read(cx.waker()) {
            match self.read_once(cx) {
                Poll::Ready(Ok(count)) => left = left.saturating_sub(count),
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Pending => return Poll::Pending,
            }
            if left == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        Poll::Pending
    }

    /// Whether memory allows to read on; if not, `reader` is woken when it does.
    fn may_read(&self, reader: &Waker) -> bool {
        if let Some(credit) = &self.peer.credit
            && credit.in_flight() >= self.shared.limits.in_flight(self.peer.channel)
        {
            credit.wait(reader);
            // Bytes may have come back before the waker was in place.
            if credit.in_flight() >= self.shared.limits.in_flight(self.peer.channel) {
                return false;
            }
        }
        self.shared.router_keeps_up(reader)
            && (self.partial < LARGE_FRAME || self.shared.may_continue(self.peer.id, reader))
    }

    /// One read, and every event in it.
    fn read_once(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, End>> {
        let shared = Rc::clone(&self.shared);
        let peer = Rc::clone(&self.peer);
        let mut pool = shared.pool.borrow_mut();
        peer.turn(&shared, |link, outbox| {
            let read = {
                let mut space = link.space(&mut pool);
                pin!(self.read.read_buf(&mut space)).poll(cx)
            };
            let result = read.map(|read| match read {
                Ok(count) if count > 0 => {
                    self.spoke = true;
                    self.take_events(link, outbox).map(|()| count)
                }
                _ if self.spoke && !self.ready => Err(End::Refused(Refusal::Left)),
                Ok(_) => Err(End::Closed("closed by the peer".to_owned())),
                Err(error) => Err(End::Closed(lost_connection(&error))),
            });
            link.park(&mut pool);
            let partial = link.partial_bytes();
            if partial != self.partial {
                shared.count_partial(self.partial, partial);
                self.partial = partial;
            }
            result
        })
    }

    fn take_events(&mut self, link: &mut Link, outbox: &mut Outbox) -> Result<(), End> {
        let refused = |error| End::Refused(Refusal::Protocol(error));
        while let Some(event) = link.poll_event(outbox).map_err(refused)? {
            let event = match event {
                zmtp::Event::Authorize { client, server } => {
                    let allowed = self.shared.is_allowed(&server, &client);
                    self.peer.set_server_key(server);
                    link.authorize(allowed, outbox).map_err(refused)?
                }
                other => Some(other),
            };
            if let Some(event) = event {
                self.handle(event, link, outbox)?;
            }
        }
        Ok(())
    }

    fn handle(
        &mut self,
        event: zmtp::Event,
        link: &mut Link,
        outbox: &mut Outbox,
    ) -> Result<(), End> {
        let (peer, channel) = (self.peer.id, self.peer.channel);
        match event {
            zmtp::Event::Ready {
                identity,
                curve_key,
                ..
            } => {
                self.ready = true;
                self.timer = None;
                self.peer.set_curve_key(curve_key);
                self.shared.connected(&self.peer);
                let address = self.peer.address;
                debug!("{address} connected to {} as {peer}", channel.name());
                if channel.socket_type() == SocketType::Sub {
                    link.subscribe(b"", outbox);
                }
                self.shared.push_event(Event::Connected {
                    peer,
                    channel,
                    identity,
                    curve_key,
                    server_key: self.peer.server_key(),
                    address,
                });
            }
            zmtp::Event::Message(mut frames) => {
                if let Some(credit) = &self.peer.credit {
                    credit.charge(&mut frames);
                }
                self.shared.message_done(peer);
                self.shared.push_event(Event::Message {
                    peer,
                    channel,
                    frames,
                });
            }
            zmtp::Event::Subscribe(prefix) => {
                if !self.peer.subscribe(prefix.clone(), SUBSCRIPTIONS_MAX) {
                    return Err(End::Refused(Refusal::Subscriptions(SUBSCRIPTIONS_MAX)));
                }
                self.shared.push_event(Event::Subscribed {
                    peer,
                    channel,
                    prefix,
                });
            }
            zmtp::Event::Unsubscribe(prefix) => self.peer.unsubscribe(&prefix),
            zmtp::Event::Pong => self.shared.push_event(Event::Alive { peer }),
            zmtp::Event::Authorize { .. } => {}
        }
        Ok(())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let mut left = TURN_BYTES;
        while self.peer.queued_bytes() > 0 {
            match self.peer.write_once(&self.shared) {
                Ok(written) => {
                    left = left.saturating_sub(written);
                    if self.ready {
                        self.timer = None;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    match self.peer.stream().poll_write_ready(cx) {
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(error)) => {
                            return Poll::Ready(End::Closed(lost_connection(&error)));
                        }
                        Poll::Pending => {
                            self.peer.set_blocked(true);
                            return Poll::Pending;
                        }
                    }
                }
                Err(error) => return Poll::Ready(End::Closed(lost_connection(&error))),
            }
            if left == 0 {
                self.peer.set_blocked(true);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        self.peer.set_blocked(false);
        Poll::Pending
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.ready && self.peer.is_congested() && self.peer.may_stall() {
            let stall = self.shared.limits.stall;
            self.timer.get_or_insert_with(|| Box::pin(sleep(stall)));
        }
        let Some(timer) = &mut self.timer else {
            return Poll::Pending;
        };
        timer.as_mut().poll(cx).map(|()| {
            if self.ready {
                let waiting = self.peer.queued_bytes() >> 20;
                End::Closed(format!(
                    "does not read its replies: {waiting} MB were waiting; results stay in the \
                     task database"
                ))
            } else {
                End::Refused(Refusal::Silent(self.shared.limits.handshake))
            }
        })
    }

    /// Says goodbye, and gives back what the connection took.
    fn finish(self, end: End) {
        let Self { shared, peer, .. } = self;
        let (id, channel, address) = (peer.id, peer.channel, peer.address);
        // The peer learns why, if it still listens; nobody learns of a failure.
        let _ = peer.write_once(&shared);
        peer.turn(&shared, |_, outbox| *outbox = Outbox::new());
        shared.count_partial(self.partial, 0);
        let was_connected = shared.leave(&peer);
        let reason = match end {
            End::Closed(reason) => reason,
            End::Refused(refusal) => {
                shared.refused(channel, address, &refusal);
                refusal.to_string()
            }
        };
        debug!("{address} left {} ({id}): {reason}", channel.name());
        if was_connected {
            shared.push_event(Event::Disconnected {
                peer: id,
                channel,
                reason,
            });
        }
    }
}
