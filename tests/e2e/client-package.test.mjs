// The client library as its users get it: packed, unpacked beside its one dependency, and used as its README says.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdir, readFile, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { trial } from './testkit/lab.mjs'

const exec = promisify(execFile)
const web = fileURLToPath(new URL('../../web-demo/', import.meta.url))
const here = fileURLToPath(new URL('./', import.meta.url))

/** What the README's examples take for granted. The first says what it needs by itself. */
const GIVEN = `
declare const publicKey: string, infoHash: string, link: string, signal: AbortSignal, blob: Blob, trackers: string[]
declare const image: HTMLImageElement, webtorrent: any, show: (record: unknown) => void
`
const GIVEN_LATER = `${GIVEN}
import type { Gateway, SigningKey, VerifiedRecord } from 'swarmgate-client'
declare const gateway: Gateway, key: SigningKey, record: VerifiedRecord, next: VerifiedRecord
`

/** A page's author reads, follows, writes, and loses a race. Arguments: two addresses, of which nobody is at the first. */
const PROGRAM = `
import { ConflictError, createSeed, Gateway, importSeed, signRecord } from 'swarmgate-client'
import { DHT } from 'swarmgate-client/bittorrent-dht'
import { formatMagnet, parseMagnet } from 'swarmgate-client/magnet'
import 'swarmgate-client/gossip'
import 'swarmgate-client/sites'
import { WebSocket } from 'ws'

if (!globalThis.WebSocket) {
  try {
    new Gateway(process.argv.slice(2))
    throw new Error('no error')
  } catch (error) {
    if (!error.message.includes('{ WebSocket }')) throw error
  }
}
const gateway = new Gateway(process.argv.slice(2), { WebSocket })
const [infoHash, other] = ['11'.repeat(20), '22'.repeat(20)]
const key = await importSeed(createSeed())
const heard = []
const absent = await gateway.get(key.publicKey)
const first = await signRecord(key, { infoHash, seq: (absent?.seq ?? 0) + 1 })
await gateway.put(first, { cas: absent?.seq })
for await (const record of gateway.subscribe(key.publicKey, { known: absent })) {
  heard.push(record.seq)
  if (record.seq === 2) break
  await gateway.put(await signRecord(key, { infoHash: other, seq: 2 }), { cas: 1 })
}
const late = await signRecord(key, { infoHash, seq: 2 })
const lost = await gateway.put(late, { cas: 1 }).catch((error) => error)
const got = await gateway.get(key.publicKey)
const dht = new DHT(gateway)
const found = await new Promise((resolve, reject) =>
  dht.get(got.target, { k: Buffer.from(key.publicKey, 'hex') }, (error, found) => (error ? reject(error) : resolve(found))),
)
gateway.close()
console.log(JSON.stringify({
  heard,
  conflict: lost instanceof ConflictError && lost.current.infoHash === other,
  got: [got.seq, got.infoHash],
  dht: [found.seq, found.v.ih.toString('hex')],
  link: parseMagnet(formatMagnet({ key: key.publicKey, trackers: [] })).key === key.publicKey,
}))
`

trial('the packed client library does what its README says, from Node', async (lab) => {
  const dir = await lab.directory()
  const installed = join(dir, 'node_modules/swarmgate-client')
  await mkdir(installed, { recursive: true })
  const { stdout: tarball } = await exec('npm', ['run', '--silent', 'pack', '--', '--pack-destination', dir], {
    cwd: web,
  })
  await exec('tar', ['xzf', join(dir, tarball.trim()), '--strip-components=1', '-C', installed])
  await symlink(join(web, 'node_modules/@noble'), join(dir, 'node_modules/@noble'))
  await symlink(join(here, 'node_modules/ws'), join(dir, 'node_modules/ws'))
  await writeFile(join(dir, 'package.json'), JSON.stringify({ type: 'module' }))

  const readme = await readFile(join(installed, 'README.md'), 'utf8')
  const examples = [...readme.matchAll(/^```ts\n(.*?)^```/gms)].map(([, code]) => code)
  assert.ok(examples.length >= 3, 'the README has examples')
  for (const [number, code] of examples.entries()) {
    await writeFile(join(dir, `example${number}.ts`), `${number ? GIVEN_LATER : GIVEN}${code}`)
  }
  const strict = ['--strict', '--exactOptionalPropertyTypes', '--noUncheckedIndexedAccess', '--noEmit']
  const platform = ['--target', 'es2022', '--module', 'nodenext', '--lib', 'es2024,dom,dom.iterable', '--types', '']
  const files = examples.map((_, number) => `example${number}.ts`)
  await exec(join(web, 'node_modules/.bin/tsc'), [...strict, ...platform, ...files], { cwd: dir }).catch((error) =>
    assert.fail(`the README's examples are not what the types say: ${error.stdout}`),
  )

  const server = await lab.server()
  await writeFile(join(dir, 'program.js'), PROGRAM)
  const program = exec(process.execPath, ['program.js', 'ws://127.0.0.1:9/announce', server.socket], { cwd: dir })
  assert.deepEqual(JSON.parse((await program).stdout), {
    heard: [1, 2],
    conflict: true,
    got: [2, '22'.repeat(20)],
    dht: [2, '22'.repeat(20)],
    link: true,
  })
})
