// Native BitTorrent clients as people run them, each given torrents to announce and nothing else to do: no DHT peers, no
// local discovery, no port mapping.

import { spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import bencode from 'bencode'
import { once, within } from './wait.mjs'

/** A libtorrent session with the torrents on its command line, all of them active, until standard input ends. */
const LIBTORRENT = `
import sys, libtorrent as lt
session = lt.session({"listen_interfaces": "127.0.0.1:0,[::1]:0", "enable_dht": False, "enable_lsd": False,
                      "enable_upnp": False, "enable_natpmp": False})
for file in sys.argv[2:]:
    handle = session.add_torrent({"ti": lt.torrent_info(file), "save_path": sys.argv[1]})
    handle.unset_flags(lt.torrent_flags.auto_managed)
    handle.resume()
sys.stdin.read()
`

/** @typedef {{ command: string, args: (dir: string, files: string[]) => string[], config?: [string, string] }} Client */

/** @type {Record<string, Client>} */
export const CLIENTS = {
  libtorrent: { command: '/usr/bin/python3', args: (dir, files) => ['-c', LIBTORRENT, dir, ...files] },
  transmission: {
    command: 'transmission-daemon',
    args: (dir) => ['--foreground', '--config-dir', dir, '--download-dir', dir, '--watch-dir', dir],
    config: [
      'settings.json',
      JSON.stringify({
        'dht-enabled': false,
        'lpd-enabled': false,
        'utp-enabled': false,
        'port-forwarding-enabled': false,
        'rpc-enabled': false,
        'peer-port-random-on-start': true,
        // Below the ports that the system gives to outgoing connections.
        'peer-port-random-low': 20_000,
        'peer-port-random-high': 32_000,
      }),
    ],
  },
  aria2: {
    command: 'aria2c',
    args: (dir, files) => [
      '--no-conf',
      '--enable-dht', // aria2 speaks UDP to trackers only with its DHT socket
      `--dht-file-path=${join(dir, 'dht.dat')}`,
      '--bt-enable-lpd=false',
      '--bt-hash-check-seed=false',
      `--dir=${dir}`,
      '--summary-interval=0',
      ...files,
    ],
  },
  qbittorrent: {
    command: 'qbittorrent-nox',
    args: (dir, files) => [`--profile=${dir}`, `--save-path=${dir}`, '--skip-dialog=true', ...files],
    config: [
      'qBittorrent/config/qBittorrent.conf',
      [
        '[LegalNotice]',
        'Accepted=true',
        '[Preferences]',
        'WebUI\\Enabled=false',
        '[BitTorrent]',
        'Session\\DHTEnabled=false',
        'Session\\LSDEnabled=false',
        'Session\\PeXEnabled=false',
        'Session\\QueueingSystemEnabled=false',
        '[Network]',
        'PortForwardingEnabled=false',
        '',
      ].join('\n'),
    ],
  },
}

/**
 * A torrent of one small file that nobody has, known to one tracker.
 * @param {string} dir
 * @param {string} name
 * @param {string} announce
 * @returns {Promise<{ file: string, infoHash: Buffer }>}
 */
export async function torrent(dir, name, announce) {
  const info = { length: 16384, name, 'piece length': 16384, pieces: randomBytes(20), private: 1 }
  const file = join(dir, `${name}.torrent`)
  await writeFile(file, bencode.encode({ announce, info }))
  return { file, infoHash: createHash('sha1').update(bencode.encode(info)).digest() }
}

/** A running client. */
export class NativeClient {
  /**
   * A client that downloads into `dir` what a link names; transmission 3.00 takes only metainfo from the command line's
   * user, in the folder that it watches.
   * @param {string} name @param {string} dir @param {{ link: string, metainfo: Uint8Array }} torrent
   */
  static async download(name, dir, { link, metainfo }) {
    if (name !== 'transmission') return NativeClient.start(name, dir, [link])
    await writeFile(join(dir, 'wanted.torrent'), metainfo)
    return NativeClient.start(name, dir, [])
  }

  /** @param {string} name @param {string} dir @param {string[]} files */
  static async start(name, dir, files) {
    const client = CLIENTS[name]
    if (!client) throw new Error(`no client is called ${name}`)
    if (client.config) {
      const [path, text] = client.config
      await mkdir(join(dir, path, '..'), { recursive: true })
      await writeFile(join(dir, path), text)
    }
    return new NativeClient(client.command, client.args(dir, files), dir)
  }

  /** @param {string} command @param {string[]} args @param {string} dir */
  constructor(command, args, dir) {
    // Standard input stays open: its end is the libtorrent script's sign to leave.
    this.child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'], env: { ...process.env, HOME: dir } })
    this.output = ''
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream.on('data', (data) => {
        this.output += data
      })
    }
    this.exit = once(this.child, 'close')
    const kill = () => this.child.kill('SIGKILL')
    process.once('exit', kill)
    this.exit.then(() => process.off('exit', kill))
  }

  /** Ends it as its user would, so that it says goodbye to its trackers. */
  async stop() {
    this.child.stdin.end()
    this.child.kill('SIGINT')
    try {
      await within(10, 'end of the client', this.exit)
    } catch {
      this.child.kill('SIGKILL') // aria2 and transmission wait long for trackers that are gone
      await this.exit
    }
  }
}

/** An aria2 that knows an info hash, a DHT, and nothing else. */
export class Aria2 extends NativeClient {
  /**
   * @param {string} dir
   * @param {import('./dht.mjs').DhtNode} entry
   * @param {string} infoHash
   * @param {number} [control] the port at which it can be told of more
   */
  constructor(dir, entry, infoHash, control) {
    const args = [
      '--no-conf',
      '--enable-dht',
      `--dht-entry-point=${entry.address}`,
      `--dht-file-path=${join(dir, 'dht.dat')}`,
      '--bt-enable-lpd=false',
      '--file-allocation=none',
      '--seed-time=0',
      `--dir=${dir}`,
      '--summary-interval=0',
      ...(control ? ['--enable-rpc', `--rpc-listen-port=${control}`] : []),
      magnet(infoHash),
    ]
    super('aria2c', args, dir)
    this.control = control
  }

  /** Has it download another torrent. @param {string} infoHash @param {string} dir */
  async add(infoHash, dir) {
    const call = { jsonrpc: '2.0', id: 1, method: 'aria2.addUri', params: [[magnet(infoHash)], { dir }] }
    const answer = await fetch(`http://127.0.0.1:${this.control}/jsonrpc`, {
      method: 'POST',
      body: JSON.stringify(call),
    })
    if (!answer.ok) throw new Error(`aria2: ${await answer.text()}`)
  }
}

const magnet = (/** @type {string} */ infoHash) => `magnet:?xt=urn:btih:${infoHash}`
