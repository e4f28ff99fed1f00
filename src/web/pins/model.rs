//! Pins, versions, tokens and events as JSON.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use axum::http::StatusCode;
use serde::{Deserialize, Deserializer, Serialize};

use super::problem::Problem;
use crate::bridge::{Progress, State};
use crate::pins::{
    Create, Event, EventKind, NewToken, Pin, Quota, Scope, Settings, Subject, Token, Trouble, Unix, Usage, Version,
    VersionState, View,
};
use crate::wire::hex;
use crate::wire::id::{InfoHash, PublicKey};
use crate::wire::item::Salt;
use crate::wire::magnet::Magnet;

/// The body that makes a pin.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPin {
    target: String,
    salt: Option<String>,
    #[serde(flatten)]
    changes: Changes,
}

/// The body that changes one (RFC 7396): what is absent stays, `expires: null` takes the expiry away.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Changes {
    name: Option<String>,
    follow: Option<bool>,
    keep: Option<Keep>,
    priority: Option<i8>,
    #[serde(default, deserialize_with = "present")]
    expires: Option<Option<String>>,
    meta: Option<BTreeMap<String, String>>,
    origins: Option<Vec<SocketAddr>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keep {
    versions: Option<u32>,
    days: Option<u32>,
}

/// Tells `null` from absence.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// What a target means, and the link that it is.
pub(super) fn parse_target(target: &str, salt: Option<&str>) -> Result<(Subject, Magnet), Problem> {
    let invalid = |detail: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-target", detail);
    let magnet = match (PublicKey::from_hex(target), InfoHash::from_hex(target)) {
        (Ok(key), _) => Magnet { key: Some(key), ..Magnet::default() },
        (_, Ok(info_hash)) => Magnet { info_hash: Some(info_hash), ..Magnet::default() },
        _ => Magnet::parse(target).map_err(|error| {
            invalid(format!("target is no public key (64 hexadecimal digits), no info hash (40), and {error}"))
        })?,
    };
    let given = salt.map(|salt| {
        let salt = hex::decode(salt).and_then(|bytes| Salt::new(bytes).ok());
        salt.ok_or_else(|| invalid("salt is at most 64 bytes in hexadecimal".into()))
    });
    let subject = match (magnet.key, magnet.info_hash, given.transpose()?) {
        (Some(key), _, salt) => Subject::Site(key, salt.unwrap_or_else(|| magnet.salt.clone())),
        (None, Some(_), Some(_)) => return Err(invalid("only a public key can have a salt".into())),
        (None, Some(info_hash), None) => Subject::Torrent(info_hash),
        (None, None, _) => return Err(invalid("target names nothing".into())),
    };
    Ok((subject, magnet))
}

impl NewPin {
    pub(super) fn parse(self, idempotency_key: Option<String>) -> Result<Create, Problem> {
        let (subject, magnet) = parse_target(&self.target, self.salt.as_deref())?;
        let mut settings = Settings { name: magnet.name.unwrap_or_default(), ..Settings::default() };
        settings.origins = magnet.peers.iter().filter_map(|peer| peer.parse().ok()).take(MAGNET_PEERS).collect();
        // The name of a link is somebody else's idea; what does not fit is cut rather than refused.
        settings.name = settings.name.chars().filter(|c| !c.is_control()).take(NAME_OF_LINK).collect();
        self.changes.check()?;
        self.changes.apply(&mut settings);
        Ok(Create { subject, settings, idempotency_key })
    }
}

/// Peers of a link that are taken along.
const MAGNET_PEERS: usize = 10;

/// Characters of a link's name that are taken, each at most four bytes.
const NAME_OF_LINK: usize = 60;

impl Changes {
    pub(super) fn check(&self) -> Result<(), Problem> {
        match &self.expires {
            Some(Some(text)) => {
                let time = text.parse::<Unix>().map(drop);
                time.map_err(|error| {
                    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-setting", format!("expires: {error}"))
                })
            }
            _ => Ok(()),
        }
    }

    /// After [`Changes::check`].
    pub(super) fn apply(self, settings: &mut Settings) {
        let Self { name, follow, keep, priority, expires, meta, origins } = self;
        let keep = keep.unwrap_or_default();
        fn set<T>(place: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *place = value;
            }
        }
        set(&mut settings.name, name);
        set(&mut settings.follow, follow);
        set(&mut settings.keep_versions, keep.versions);
        set(&mut settings.keep_days, keep.days);
        set(&mut settings.priority, priority);
        set(&mut settings.expires, expires.map(|text| text.and_then(|text| text.parse().ok())));
        set(&mut settings.meta, meta);
        set(&mut settings.origins, origins);
    }
}

/// A pin as it is given out.
#[derive(Debug, Serialize)]
pub(super) struct PinBody {
    id: String,
    target: TargetBody,
    magnet: String,
    name: String,
    follow: bool,
    keep: Keep,
    priority: i8,
    expires: Option<String>,
    meta: BTreeMap<String, String>,
    origins: Vec<SocketAddr>,
    created: String,
    updated: String,
    revision: u64,
    status: &'static str,
    trouble: Option<TroubleBody>,
    current: Option<VersionBody>,
    wanted: Option<VersionBody>,
    progress: Option<ProgressBody>,
    record: Option<RecordBody>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum TargetBody {
    Torrent { info_hash: String },
    Site { key: String, salt: String },
}

#[derive(Debug, Serialize)]
struct TroubleBody {
    reason: &'static str,
    detail: String,
    retry_at: Option<String>,
}

#[derive(Debug, Serialize)]
struct ProgressBody {
    state: &'static str,
    bytes: u64,
    total_bytes: Option<u64>,
    pieces: usize,
    total_pieces: Option<usize>,
    peers: BTreeMap<&'static str, usize>,
    received: u64,
    sent: u64,
    receive_rate: u64,
    send_rate: u64,
    seconds_left: Option<u64>,
}

#[derive(Debug, Serialize)]
struct RecordBody {
    seq: i64,
    target: String,
    last_put: Option<String>,
    holders: usize,
    next_put: Option<String>,
}

/// A version as it is given out.
#[derive(Debug, Serialize)]
pub(super) struct VersionBody {
    seq: i64,
    info_hash: String,
    state: &'static str,
    current: bool,
    held: bool,
    bytes: Option<u64>,
    files: Option<u32>,
    pieces: Option<u32>,
    fetched: Option<String>,
    replaced: Option<String>,
    verified: Option<String>,
}

impl PinBody {
    pub(super) fn new(view: View) -> Self {
        let View { pin, status, trouble, progress, publication } = view;
        let now = Unix::now();
        let target = match &pin.subject {
            Subject::Torrent(info_hash) => TargetBody::Torrent { info_hash: info_hash.to_hex() },
            Subject::Site(key, salt) => TargetBody::Site { key: key.to_hex(), salt: hex::encode(salt.as_bytes()) },
        };
        let record = pin.newest.as_ref().map(|newest| {
            let publication = publication.unwrap_or_default();
            RecordBody {
                seq: newest.seq(),
                target: newest.target().to_hex(),
                last_put: publication.ago.map(|ago| Unix(now.0 - ago.as_secs() as i64).to_string()),
                holders: publication.holders,
                next_put: publication.next.map(|next| now.after(next).to_string()),
            }
        });
        Self {
            id: pin.id.to_string(),
            target,
            magnet: magnet(&pin),
            follow: pin.settings.follow,
            keep: Keep { versions: Some(pin.settings.keep_versions), days: Some(pin.settings.keep_days) },
            priority: pin.settings.priority,
            expires: moment(pin.settings.expires),
            created: pin.created.to_string(),
            updated: pin.updated.to_string(),
            revision: pin.revision,
            status: status.name(),
            trouble: trouble.map(TroubleBody::new),
            current: pin.current().map(|version| VersionBody::new(version, &pin)),
            wanted: pin.wanted().map(|version| VersionBody::new(version, &pin)),
            progress: progress.map(ProgressBody::new),
            record,
            name: pin.settings.name,
            meta: pin.settings.meta,
            origins: pin.settings.origins,
        }
    }
}

fn magnet(pin: &Pin) -> String {
    let mut magnet =
        Magnet { name: Some(pin.settings.name.clone()).filter(|name| !name.is_empty()), ..Magnet::default() };
    match &pin.subject {
        Subject::Torrent(info_hash) => magnet.info_hash = Some(*info_hash),
        Subject::Site(key, salt) => (magnet.key, magnet.salt) = (Some(*key), salt.clone()),
    }
    magnet.to_string()
}

fn moment(at: Option<Unix>) -> Option<String> {
    at.map(|at| at.to_string())
}

impl TroubleBody {
    fn new(trouble: Trouble) -> Self {
        Self { reason: trouble.reason.code(), detail: trouble.sentence, retry_at: moment(trouble.retry) }
    }
}

impl ProgressBody {
    fn new(progress: Progress) -> Self {
        let state = match progress.state {
            State::Metadata => "metadata",
            State::Checking => "checking",
            State::Downloading => "downloading",
            State::Complete => "complete",
        };
        let seconds_left = progress.time_left().map(|left| left.as_secs());
        Self {
            state,
            bytes: progress.bytes,
            total_bytes: progress.metainfo.as_ref().map(|metainfo| metainfo.total_length()),
            pieces: progress.pieces,
            total_pieces: progress.metainfo.as_ref().map(|metainfo| metainfo.pieces()),
            peers: progress.peers,
            received: progress.received,
            sent: progress.sent,
            receive_rate: progress.receive_rate,
            send_rate: progress.send_rate,
            seconds_left,
        }
    }
}

impl VersionBody {
    pub(super) fn new(version: &Version, pin: &Pin) -> Self {
        let state = match version.state {
            VersionState::Wanted => "wanted",
            VersionState::Kept => "kept",
            VersionState::Released => "released",
        };
        Self {
            seq: version.seq,
            info_hash: version.info_hash.to_hex(),
            state,
            current: pin.current == Some(version.seq),
            held: version.held,
            bytes: version.size.map(|size| size.bytes),
            files: version.size.map(|size| size.files),
            pieces: version.size.map(|size| size.pieces),
            fetched: moment(version.fetched),
            replaced: moment(version.replaced),
            verified: moment(version.verified),
        }
    }
}

/// What an owner uses, and may use.
#[derive(Debug, Serialize)]
pub(super) struct UsageBody {
    pins: u64,
    bytes: u64,
    limits: LimitsBody,
}

/// Limits; `null` is none.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LimitsBody {
    pins: Option<u64>,
    bytes: Option<u64>,
    pin_bytes: Option<u64>,
}

impl UsageBody {
    pub(super) fn new((usage, quota): (Usage, Quota)) -> Self {
        let limits = LimitsBody { pins: quota.pins, bytes: quota.bytes, pin_bytes: quota.pin_bytes };
        Self { pins: usage.pins, bytes: usage.bytes, limits }
    }
}

/// The body that makes a token.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewTokenBody {
    #[serde(default)]
    name: String,
    #[serde(default)]
    read_only: bool,
    #[serde(default)]
    limits: LimitsBody,
    expires: Option<String>,
}

impl NewTokenBody {
    pub(super) fn parse(self) -> Result<NewToken, Problem> {
        let invalid = |detail: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-setting", detail);
        if self.name.len() > crate::pins::MAX_TOKEN_NAME || self.name.chars().any(char::is_control) {
            return Err(invalid("name is at most 255 bytes, without control characters".into()));
        }
        let expires = self.expires.map(|text| text.parse::<Unix>()).transpose();
        let expires = expires.map_err(|error| invalid(format!("expires: {error}")))?;
        if expires.is_some_and(|expires| expires <= Unix::now()) {
            return Err(invalid("expires is in the past".into()));
        }
        let LimitsBody { pins, bytes, pin_bytes } = self.limits;
        let scope = if self.read_only { Scope::Read } else { Scope::Write };
        Ok(NewToken { name: self.name, scope, quota: Quota { bytes, pins, pin_bytes }, expires })
    }
}

/// A token as it is given out: with its secret once, when it is made.
#[derive(Debug, Serialize)]
pub(super) struct TokenBody {
    id: String,
    name: String,
    scope: &'static str,
    created: String,
    expires: Option<String>,
    revoked: Option<String>,
    usage: UsageBody,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

impl TokenBody {
    pub(super) fn new(token: &Token, usage: Usage, text: Option<String>) -> Self {
        Self {
            id: token.id.to_string(),
            name: token.name.clone(),
            scope: token.scope.name(),
            created: token.created.to_string(),
            expires: moment(token.expires),
            revoked: moment(token.revoked),
            usage: UsageBody::new((usage, token.quota)),
            token: text,
        }
    }
}

/// An event as it is sent.
#[derive(Debug, Serialize)]
pub(super) struct EventBody {
    at: String,
    pin: String,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    info_hash: Option<String>,
}

impl EventBody {
    pub(super) fn new(event: &Event) -> Self {
        let (status, reason, seq, info_hash) = match event.kind {
            EventKind::Status { status, reason } => (Some(status.name()), reason.map(|r| r.code()), None, None),
            EventKind::Current { seq, info_hash } => (None, None, Some(seq), Some(info_hash.to_hex())),
            EventKind::Created | EventKind::Changed | EventKind::Deleted | EventKind::Expired => {
                (None, None, None, None)
            }
        };
        let (at, pin) = (event.at.to_string(), event.pin.to_string());
        Self { at, pin, event: event.kind.name(), status, reason, seq, info_hash }
    }
}
