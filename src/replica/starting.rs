//! How a replica starts and ends, on its node's thread: the directory first, since a predecessor that still ends has the ports too.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use duramen_disk::OsDisk;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::{oneshot, watch};

use super::driver;
use super::options::Beginning;
use super::{Error, Handle, Options, Replica};
use crate::node::{
    AddressBook, Claim, Identity, Node, NodeId, StateMachine, Status, Storage, SystemClock,
};
use crate::transport::{ADDRESS_BYTES_MAX, TcpNetwork, TcpTransport};

/// How long to wait for a predecessor that is still ending.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(50);

type RunningNode<S> = Node<S, TcpNetwork<Handle<S>>, SystemClock>;

pub(super) async fn start<S: StateMachine>(
    options: Options,
    state: S,
) -> Result<Replica<S>, Error> {
    check(&options)?;
    let (sender, started) = oneshot::channel();
    let run = move || {
        let mut runtime = runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().map_err(Error::Thread)?;
        runtime.block_on(run(&options, state, sender))
    };
    let thread = thread::Builder::new().name("node".to_owned()).spawn(run);
    let thread = thread.map_err(Error::Thread)?;
    match started.await {
        Ok(mut replica) => {
            replica.thread = Some(thread);
            Ok(replica)
        }
        Err(_) => match on_thread("start", move || thread.join()).await? {
            Ok(Err(error)) => Err(error),
            Ok(Ok(())) | Err(_) => Err(Error::Panicked),
        },
    }
}

/// Runs a node until it has ended, with all that it had. The replica is given out when it has started; if nobody takes it, it is
/// dropped, and ends.
async fn run<S: StateMachine>(
    options: &Options,
    state: S,
    on_started: oneshot::Sender<Replica<S>>,
) -> Result<(), Error> {
    let addresses = AddressBook::new(
        options.id,
        options.own_addresses(),
        options.given_addresses(),
    );
    let transport = TcpTransport::new(options.id, addresses.clone());
    let (handle, inbox) = Handle::channel();
    let mut node = open(options, state, transport.connect(&handle))?;
    let listener = bind(options, &node, &addresses).await?;
    let (sender, status) = watch::channel(node.status());
    let (listening, endpoint) = (transport.clone(), handle.clone());
    let listening = tokio::spawn(async move { listening.listen(listener, endpoint).await });
    drop(on_started.send(Replica {
        handle,
        status,
        addresses,
        transport: transport.clone(),
        thread: None,
    }));
    let ended = driver::run(&mut node, inbox, |status| publish(&sender, status)).await;
    // Before the directory is unlocked: who waits for that wants the port too.
    transport.end().await;
    let _ = listening.await; // If it panicked, that was said on standard error.
    Ok(ended?)
}

/// What can be seen without opening anything.
fn check(options: &Options) -> Result<(), Error> {
    if let Beginning::With(peers) = &options.beginning
        && !peers.contains_key(&options.id)
    {
        return Err(Error::NotAPeer(options.id));
    }
    let own = options.own_addresses();
    for address in [own.peer, own.client] {
        if !is_somewhere(&address) {
            return Err(Error::NoAddress { address });
        }
    }
    Ok(())
}

/// Whether others could connect to it.
fn is_somewhere(address: &str) -> bool {
    let is_anywhere = address.starts_with("0.0.0.0:") || address.starts_with("[::]:");
    !is_anywhere && address.len() <= ADDRESS_BYTES_MAX
}

pub(super) fn open<S: StateMachine>(
    options: &Options,
    state: S,
    network: TcpNetwork<Handle<S>>,
) -> Result<RunningNode<S>, Error> {
    let storage = open_storage(options)?;
    tell_of_recovery(options.id, &storage);
    let mut config = options.config.clone();
    config.id = options.id;
    config.seed = fastrand::u64(..);
    config.membership = options.membership();
    let (node, clock) = (options.node.clone(), SystemClock::new());
    Ok(Node::new(config, node, storage, state, network, clock)?)
}

fn open_storage(options: &Options) -> Result<Storage, Error> {
    let until = Instant::now() + LOCK_TIMEOUT;
    loop {
        match try_open_storage(options) {
            Err(Error::Node(error)) if error.is_locked() && Instant::now() < until => {
                thread::sleep(LOCK_PAUSE);
            }
            opened => return opened,
        }
    }
}

fn try_open_storage(options: &Options) -> Result<Storage, Error> {
    let disk = Arc::new(OsDisk::new());
    let voters = match &options.beginning {
        Beginning::With(peers) => Some(peers.keys().copied().collect()),
        Beginning::Joining | Beginning::Before => None,
    };
    let claim = Claim {
        node: options.id,
        cluster: options.cluster.clone(),
        voters: voters.clone(),
    };
    let (dir, storage) = (&options.dir, &options.storage);
    if let Some(storage) = Storage::reopen(disk.clone(), dir, &claim, storage.clone())? {
        return Ok(storage);
    }
    if options.beginning == Beginning::Before {
        return Err(Error::NotBegun { dir: dir.clone() });
    }
    let identity = Identity {
        cluster: options.cluster_at_first(),
        node: options.id,
        voters: voters.unwrap_or_default(),
    };
    Ok(Storage::open(disk, dir, &identity, storage.clone())?)
}

fn tell_of_recovery(id: NodeId, storage: &Storage) {
    let report = storage.recovery();
    if let Some(cut) = &report.cut {
        tracing::warn!(
            "node {id} cut off an unfinished write of {} bytes at offset {} of {}",
            cut.bytes,
            cut.offset,
            cut.path.display()
        );
    }
    for damaged in &report.damaged {
        let (entry, path) = (&damaged.entry, damaged.path.display());
        tracing::error!(
            "node {id}: entry {} is damaged, at offset {} of {path}",
            entry.id,
            entry.offset
        );
    }
    tracing::debug!(
        "node {id} read {} frames from {} segments",
        report.frames,
        report.segments
    );
}

/// Listens for the other nodes, where it was said; or else where they reach this node, as the directory may say too.
async fn bind<S: StateMachine>(
    options: &Options,
    node: &RunningNode<S>,
    addresses: &AddressBook,
) -> Result<TcpListener, Error> {
    let (id, listen) = (options.id, options.listen.as_ref());
    if let Some(member) = node.raft().membership().member(id) {
        addresses.complete_own(&member.peer_address, &member.client_address);
    }
    if let Some(listen) = listen.filter(|listen| is_somewhere(listen)) {
        addresses.complete_own(listen, "");
    }
    let own = addresses.own().peer;
    if own.is_empty() {
        return Err(Error::NoPeerAddress(id));
    }
    let address = listen.cloned().unwrap_or(own);
    match TcpListener::bind(&address).await {
        Ok(listener) => Ok(listener),
        Err(source) => Err(Error::Listen { address, source }),
    }
}

/// Passes a status on, and says so when the node has become the leader.
fn publish(sender: &watch::Sender<Status>, status: Status) {
    let before = sender.send_replace(status);
    if status.leader == Some(status.id)
        && (before.leader, before.term) != (status.leader, status.term)
    {
        tracing::info!("node {} leads, term {}", status.id, status.term);
    }
}

/// Runs what may take long on a thread of its own, which has ended on return.
pub(super) async fn on_thread<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let (sender, done) = oneshot::channel();
    let run = move || drop(sender.send(run()));
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
    let thread = thread.map_err(Error::Thread)?;
    let done = done.await;
    let _ = thread.join(); // It has nothing left to do. If it panicked, there is no answer.
    done.map_err(|_| Error::Panicked)
}
