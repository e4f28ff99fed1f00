//! Pins, versions, tokens and events as rows.

use rusqlite::{Connection, Row, params};

use super::Contents;
use crate::pins::events::{Event, EventKind};
use crate::pins::ids::{PinId, TokenId, Unix, Who};
use crate::pins::pin::{Pin, Reason, Settings, Size, Status, Subject, Trouble, Version, VersionState};
use crate::pins::token::{Quota, Scope, Token};
use crate::wire::id::{InfoHash, PublicKey, Signature};
use crate::wire::item::{Salt, SignedItem, VerifiedItem};

pub(super) fn save_pin(connection: &Connection, pin: &Pin) -> rusqlite::Result<()> {
    let (info_hash, key, salt) = match &pin.subject {
        Subject::Torrent(info_hash) => (Some(info_hash.0), None, None),
        Subject::Site(key, salt) => (None, Some(key.0), Some(salt.as_bytes())),
    };
    let Settings { name, follow, keep_versions, keep_days, priority, expires, meta, origins } = &pin.settings;
    let newest = pin.newest.as_ref();
    let trouble = pin.trouble.as_ref();
    let json = |value: serde_json::Result<String>| value.expect("strings are JSON");
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO pin (id, owner, info_hash, k, salt, name, follow, keep_versions, keep_days,
                priority, expires, meta, origins, made_by, created, updated, revision, newest_seq, newest_v,
                newest_sig, current, wanted, reason, sentence, retry)
             VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        )?
        .execute(params![
            pin.id.0,
            owner(pin.owner),
            info_hash,
            key,
            salt,
            name,
            follow,
            keep_versions,
            keep_days,
            priority,
            expires.map(|at| at.0),
            json(serde_json::to_string(meta)),
            json(serde_json::to_string(origins)),
            pin.made_by,
            pin.created.0,
            pin.updated.0,
            pin.revision as i64,
            newest.map(VerifiedItem::seq),
            newest.map(VerifiedItem::v),
            newest.map(|item| item.sig().0),
            pin.current,
            pin.wanted,
            trouble.map(|trouble| trouble.reason.code()),
            trouble.map(|trouble| &trouble.sentence),
            trouble.and_then(|trouble| trouble.retry).map(|at| at.0),
        ])?;
    connection.prepare_cached("DELETE FROM version WHERE pin = ?")?.execute([pin.id.0])?;
    let mut insert = connection.prepare_cached("INSERT INTO version VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)")?;
    for version in &pin.versions {
        let Version { seq, info_hash, record, size, state, held, fetched, replaced, verified } = version;
        insert.execute(params![
            pin.id.0,
            seq,
            info_hash.0,
            record.as_ref().map(VerifiedItem::v),
            record.as_ref().map(|item| item.sig().0),
            size.map(|size| size.bytes as i64),
            size.map(|size| size.files),
            size.map(|size| size.pieces),
            state_name(*state),
            held,
            fetched.map(|at| at.0),
            replaced.map(|at| at.0),
            verified.map(|at| at.0),
        ])?;
    }
    Ok(())
}

pub(super) fn delete_pin(connection: &Connection, id: &PinId) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM version WHERE pin = ?")?.execute([id.0])?;
    connection.prepare_cached("DELETE FROM pin WHERE id = ?")?.execute([id.0]).map(drop)
}

pub(super) fn save_token(connection: &Connection, token: &Token) -> rusqlite::Result<()> {
    let Token { id, hash, name, scope, quota, created, expires, revoked } = token;
    let number = |limit: Option<u64>| limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX));
    connection
        .execute(
            "INSERT OR REPLACE INTO token VALUES (?,?,?,?,?,?,?,?,?,?)",
            params![
                id.0,
                hash,
                name,
                scope.name(),
                number(quota.bytes),
                number(quota.pins),
                number(quota.pin_bytes),
                created.0,
                expires.map(|at| at.0),
                revoked.map(|at| at.0)
            ],
        )
        .map(drop)
}

pub(super) fn save_event(connection: &Connection, event: &Event) -> rusqlite::Result<()> {
    let (status, reason, seq, info_hash) = match event.kind {
        EventKind::Status { status, reason } => (Some(status.name()), reason.map(Reason::code), None, None),
        EventKind::Current { seq, info_hash } => (None, None, Some(seq), Some(info_hash.0)),
        _ => (None, None, None, None),
    };
    let kind = event.kind.name();
    connection
        .prepare_cached("INSERT OR REPLACE INTO event VALUES (?,?,?,?,?,?,?,?,?)")?
        .execute(params![
            event.number as i64,
            event.at.0,
            owner(event.owner),
            event.pin.0,
            kind,
            status,
            reason,
            seq,
            info_hash
        ])
        .map(drop)
}

/// Reads everything. Records are verified as if a stranger had sent them: what is on disk may not be what was written.
pub(super) fn read(connection: &mut Connection) -> rusqlite::Result<Contents> {
    let mut contents = Contents::default();
    let transaction = connection.transaction()?;
    let mut count = |read: Option<()>| contents.damaged += usize::from(read.is_none());
    let mut tokens = Vec::new();
    for token in transaction.prepare("SELECT * FROM token ORDER BY id")?.query_map([], read_token)? {
        count(token?.map(|token| tokens.push(token)));
    }
    let mut pins = Vec::new();
    let mut versions = transaction.prepare("SELECT * FROM version WHERE pin = ? ORDER BY seq")?;
    for pin in transaction.prepare("SELECT * FROM pin ORDER BY created, id")?.query_map([], read_pin)? {
        let Some(mut pin) = pin? else {
            count(None);
            continue;
        };
        for version in versions.query_map([pin.id.0], |row| read_version(row, &pin.subject))? {
            count(version?.map(|version| pin.versions.push(version)));
        }
        // A version that cannot be read is as one that was never there.
        pin.current = pin.current.filter(|seq| pin.versions.iter().any(|version| version.seq == *seq));
        pin.wanted = pin.wanted.filter(|seq| pin.versions.iter().any(|version| version.seq == *seq));
        pins.push(pin);
    }
    let mut events = Vec::new();
    for event in transaction.prepare("SELECT * FROM event ORDER BY number")?.query_map([], read_event)? {
        count(event?.map(|event| events.push(event)));
    }
    drop(versions);
    let damaged = contents.damaged;
    Ok(Contents { tokens, pins, events, damaged })
}

fn read_token(row: &Row<'_>) -> rusqlite::Result<Option<Token>> {
    let limit =
        |name: &str| row.get::<_, Option<i64>>(name).map(|limit| limit.and_then(|limit| u64::try_from(limit).ok()));
    let quota = Quota { bytes: limit("max_bytes")?, pins: limit("max_pins")?, pin_bytes: limit("max_pin_bytes")? };
    let (id, hash, scope) = (bytes(row, "id")?, bytes(row, "hash")?, row.get::<_, String>("scope")?);
    let (name, created, expires) = (row.get("name")?, row.get("created").map(Unix)?, moment(row, "expires")?);
    let revoked = moment(row, "revoked")?;
    let token = || {
        let scope = [Scope::Read, Scope::Write].into_iter().find(|known| known.name() == scope)?;
        Some(Token { id: TokenId(id?), hash: hash?, name, scope, quota, created, expires, revoked })
    };
    Ok(token())
}

fn read_pin(row: &Row<'_>) -> rusqlite::Result<Option<Pin>> {
    let (id, info_hash, key) = (bytes(row, "id")?, bytes(row, "info_hash")?, bytes(row, "k")?);
    let salt = Salt::new(row.get::<_, Option<Vec<u8>>>("salt")?.unwrap_or_default()).ok();
    let subject = match (info_hash, key, salt) {
        (Some(info_hash), None, _) => Subject::Torrent(InfoHash(info_hash)),
        (None, Some(key), Some(salt)) => Subject::Site(PublicKey(key), salt),
        _ => return Ok(None),
    };
    let (meta, origins): (String, String) = (row.get("meta")?, row.get("origins")?);
    let settings = Settings {
        name: row.get("name")?,
        follow: row.get("follow")?,
        keep_versions: row.get("keep_versions")?,
        keep_days: row.get("keep_days")?,
        priority: row.get("priority")?,
        expires: moment(row, "expires")?,
        meta: serde_json::from_str(&meta).unwrap_or_default(),
        origins: serde_json::from_str(&origins).unwrap_or_default(),
    };
    let newest = match row.get::<_, Option<i64>>("newest_seq")? {
        Some(seq) => record(&subject, seq, row.get("newest_v")?, bytes(row, "newest_sig")?),
        None => None,
    };
    let reason: Option<String> = row.get("reason")?;
    let reason = Reason::ALL.into_iter().find(|known| Some(known.code()) == reason.as_deref());
    let (sentence, retry) = (row.get::<_, Option<String>>("sentence")?.unwrap_or_default(), moment(row, "retry")?);
    let owner = read_owner(row)?;
    let pin = Pin {
        id: PinId(match id {
            Some(id) => id,
            None => return Ok(None),
        }),
        owner,
        subject,
        settings,
        made_by: row.get("made_by")?,
        created: Unix(row.get("created")?),
        updated: Unix(row.get("updated")?),
        revision: row.get::<_, i64>("revision")? as u64,
        newest,
        versions: Vec::new(),
        current: row.get("current")?,
        wanted: row.get("wanted")?,
        trouble: reason.map(|reason| Trouble { reason, sentence, retry }),
    };
    Ok(Some(pin))
}

fn read_version(row: &Row<'_>, subject: &Subject) -> rusqlite::Result<Option<Version>> {
    let seq = row.get("seq")?;
    let (info_hash, state): (_, String) = (bytes(row, "info_hash")?, row.get("state")?);
    let record = match row.get::<_, Option<Vec<u8>>>("v")? {
        Some(v) => match record(subject, seq, Some(v), bytes(row, "sig")?) {
            Some(record) => Some(record),
            None => return Ok(None),
        },
        None => None,
    };
    let size = match row.get::<_, Option<i64>>("bytes")? {
        Some(bytes) => Some(Size {
            bytes: u64::try_from(bytes).unwrap_or(0),
            files: row.get("files")?,
            pieces: row.get("pieces")?,
        }),
        None => None,
    };
    let states = [VersionState::Wanted, VersionState::Kept, VersionState::Released];
    let (held, fetched, replaced) = (row.get("held")?, moment(row, "fetched")?, moment(row, "replaced")?);
    let verified = moment(row, "verified")?;
    let version = || {
        let state = states.into_iter().find(|known| state_name(*known) == state)?;
        let info_hash = InfoHash(info_hash?);
        Some(Version { seq, info_hash, record, size, state, held, fetched, replaced, verified })
    };
    Ok(version())
}

fn read_event(row: &Row<'_>) -> rusqlite::Result<Option<Event>> {
    let text = |name: &str| row.get::<_, Option<String>>(name);
    let (kind, status, reason) = (text("kind")?.unwrap_or_default(), text("status")?, text("reason")?);
    let (seq, info_hash) = (row.get::<_, Option<i64>>("seq")?, bytes(row, "info_hash")?);
    let status = Status::ALL.into_iter().find(|known| Some(known.name()) == status.as_deref());
    let reason = Reason::ALL.into_iter().find(|known| Some(known.code()) == reason.as_deref());
    let (number, at, owner, pin) =
        (row.get::<_, i64>("number")? as u64, Unix(row.get("at")?), read_owner(row)?, bytes(row, "pin")?);
    let event = || {
        let kind = match kind.as_str() {
            "created" => EventKind::Created,
            "changed" => EventKind::Changed,
            "deleted" => EventKind::Deleted,
            "expired" => EventKind::Expired,
            "status" => EventKind::Status { status: status?, reason },
            "current" => EventKind::Current { seq: seq?, info_hash: InfoHash(info_hash?) },
            _ => return None,
        };
        Some(Event { number, at, owner, pin: PinId(pin?), kind })
    };
    Ok(event())
}

fn record(subject: &Subject, seq: i64, v: Option<Vec<u8>>, sig: Option<[u8; 64]>) -> Option<VerifiedItem> {
    let Subject::Site(key, salt) = subject else { return None };
    SignedItem { key: *key, salt: salt.clone(), seq, v: v?, sig: Signature(sig?) }.verify().ok()
}

fn owner(who: Who) -> Option<[u8; 8]> {
    match who {
        Who::Operator => None,
        Who::Token(id) => Some(id.0),
    }
}

fn read_owner(row: &Row<'_>) -> rusqlite::Result<Who> {
    Ok(bytes(row, "owner")?.map_or(Who::Operator, |id| Who::Token(TokenId(id))))
}

/// A blob of exactly that length; `None` for any other and for NULL.
fn bytes<const N: usize>(row: &Row<'_>, name: &str) -> rusqlite::Result<Option<[u8; N]>> {
    Ok(row.get::<_, Option<Vec<u8>>>(name)?.and_then(|bytes| bytes.try_into().ok()))
}

fn moment(row: &Row<'_>, name: &str) -> rusqlite::Result<Option<Unix>> {
    Ok(row.get::<_, Option<i64>>(name)?.map(Unix))
}

fn state_name(state: VersionState) -> &'static str {
    match state {
        VersionState::Wanted => "wanted",
        VersionState::Kept => "kept",
        VersionState::Released => "released",
    }
}
