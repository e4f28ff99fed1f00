#!/usr/bin/python3
"""A libtorrent session driven by lines of JSON: commands on standard input, answers and events on standard output.

Command: {"id": 1, "do": "seed", ...}; answer: {"id": 1, "result": ...} or {"id": 1, "error": "..."}; event: {"event": "..."}.
Arguments: the address to listen on, and settings in JSON over those below: TCP only, no local discovery, no encryption, no
port mapping. It ends when standard input does.
"""

import hashlib
import json
import os
import re
import select
import sys

import libtorrent as lt


def emit(message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


POINTER = re.compile(r"\[ \{\s*'ih': '([0-9a-f]{40})'\s*\} \]$")


def value_of(alert):
    """The bencoded value, or None. The binding gives byte strings only; a BEP 46 pointer is read from the alert's text,
    which has it in hexadecimal unless all of it happens to be printable."""
    pointer = POINTER.search(alert.message())
    if pointer:
        return lt.bencode({b"ih": bytes.fromhex(pointer[1])}).hex()
    try:
        return lt.bencode(alert.item["value"]).hex()
    except RuntimeError:
        return None


def salt_of(alert):
    """The binding gives it as text, so a salt that is not UTF-8 cannot be told apart."""
    return alert.salt.encode().hex()


class Peer:
    def __init__(self, host, settings):
        disabled = int(lt.enc_policy.pe_disabled)
        self.session = lt.session({
            "listen_interfaces": f"[{host}]:0" if ":" in host else f"{host}:0",
            "alert_mask": int(lt.alert.category_t.status_notification | lt.alert.category_t.error_notification
                              | lt.alert.category_t.dht_notification | lt.alert.category_t.peer_notification
                              | lt.alert.category_t.storage_notification),
            "enable_outgoing_utp": False,
            "enable_incoming_utp": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "out_enc_policy": disabled,
            "in_enc_policy": disabled,
            "enable_dht": True,
            "dht_bootstrap_nodes": "",
            # A network whose nodes all live on loopback: their ids cannot match their addresses (BEP 42).
            "dht_restrict_routing_ips": False,
            "dht_restrict_search_ips": False,
            "dht_prefer_verified_node_ids": False,
            "dht_ignore_dark_internet": False,
            "allow_multiple_connections_per_ip": True,
            **settings,
        })
        self.torrents = {}
        self.flushing = set()

    def do_listen_port(self):
        return self.session.listen_port()

    def do_join_dht(self, nodes):
        for host, port in nodes:
            self.session.add_dht_node((host, port))

    def do_seed(self, dir, piece_size=16384, hybrid=False):
        """Makes a torrent of the folder and seeds it where it lies; a hybrid one (BEP 52) has version 2 besides."""
        files = lt.file_storage()
        lt.add_files(files, dir)
        versions = 0 if hybrid else lt.create_torrent.v1_only
        torrent = lt.create_torrent(files, piece_size, versions)
        lt.set_piece_hashes(torrent, os.path.dirname(dir))
        info = lt.torrent_info(torrent.generate())
        self.add({"ti": info, "save_path": os.path.dirname(dir), "flags": lt.torrent_flags.seed_mode})
        return {"info_hash": str(info.info_hashes().v1), "pieces": info.num_pieces(), "size": info.total_size()}

    def do_download(self, info_hash, dir, trackers=()):
        params = lt.parse_magnet_uri("magnet:?xt=urn:btih:" + info_hash)
        params.trackers = list(trackers)
        params.save_path = dir
        params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
        self.torrents[info_hash] = self.session.add_torrent(params)

    def do_download_from(self, file, url, dir):
        """A torrent file, read from a web seed (BEP 19)."""
        self.add({"ti": lt.torrent_info(file), "save_path": dir, "url_seeds": [url]})

    def add(self, params):
        handle = self.session.add_torrent(params)
        handle.unset_flags(lt.torrent_flags.auto_managed)
        handle.resume()
        self.torrents[str(handle.info_hashes().v1)] = handle

    def do_announce(self, info_hash):
        self.torrents[info_hash].force_dht_announce()

    def do_connect(self, info_hash, host, port):
        self.torrents[info_hash].connect_peer((host, port))

    def do_peers(self, info_hash):
        """Peers connected now: address, port, and whether peer exchange named them (BEP 11)."""
        return [{"host": p.ip[0], "port": p.ip[1], "pex": bool(p.source & lt.peer_info.pex)}
                for p in self.torrents[info_hash].get_peer_info()
                if not p.flags & (lt.peer_info.connecting | lt.peer_info.handshake)]

    def do_limit_upload(self, info_hash, rate):
        self.torrents[info_hash].set_upload_limit(rate)

    def do_uploaded(self, info_hash):
        return self.torrents[info_hash].status().total_payload_upload

    def do_downloaded(self, info_hash):
        return self.torrents[info_hash].status().total_payload_download

    def do_dht_nodes(self):
        return self.session.status().dht_nodes

    def do_get_mutable(self, k, salt):
        self.session.dht_get_mutable_item(bytes.fromhex(k), bytes.fromhex(salt))

    def do_put_mutable(self, seed, k, data, salt):
        hashed = bytearray(hashlib.sha512(bytes.fromhex(seed)).digest())  # RFC 8032, section 5.1.5
        hashed[0] &= 248
        hashed[31] = hashed[31] & 63 | 64
        self.session.dht_put_mutable_item(bytes(hashed), bytes.fromhex(k), bytes.fromhex(data), bytes.fromhex(salt))

    def command(self, line):
        command = json.loads(line)
        id, do = command.pop("id"), command.pop("do")
        try:
            emit({"id": id, "result": getattr(self, "do_" + do)(**command)})
        except Exception as error:  # every mistake is the test's to see
            emit({"id": id, "error": f"{type(error).__name__}: {error}"})

    def alert(self, alert):
        if isinstance(alert, lt.dht_mutable_item_alert):
            emit({"event": "mutable", "k": alert.key.hex(), "salt": salt_of(alert), "seq": alert.seq,
                  "sig": alert.signature.hex(), "authoritative": alert.authoritative, "v": value_of(alert)})
        elif isinstance(alert, lt.dht_put_alert):
            emit({"event": "put", "k": alert.public_key.hex(), "seq": alert.seq, "nodes": alert.num_success})
        elif isinstance(alert, lt.torrent_finished_alert):
            # It has every piece then, but the last of them may still be on their way to the disk.
            self.flushing.add(str(alert.handle.info_hash()))
            alert.handle.flush_cache()
        elif isinstance(alert, lt.cache_flushed_alert):
            info_hash = str(alert.handle.info_hash())
            if info_hash in self.flushing:
                self.flushing.remove(info_hash)
                emit({"event": "finished", "info_hash": info_hash})
        else:
            emit({"event": "alert", "what": alert.what(), "message": alert.message()})


def main():
    peer = Peer(sys.argv[1], json.loads(sys.argv[2]))
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    peer.session.set_alert_fd(writer)
    emit({"event": "ready", "port": peer.session.listen_port(), "version": lt.version})
    pending = b""
    while True:
        readable, _, _ = select.select([0, reader], [], [])
        if reader in readable:
            os.read(reader, 4096)
            for alert in peer.session.pop_alerts():
                peer.alert(alert)
        if 0 in readable:
            data = os.read(0, 65536)
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                peer.command(line)


main()
