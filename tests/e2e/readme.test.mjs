// The README's pin commands, as a new user types them: in order, word for word, against a server on its defaults, in a
// network of its own. Needs root.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { readFile, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { trial } from './testkit/lab.mjs'
import { writeSite } from './testkit/site.mjs'
import { BINARY } from './testkit/swarmgate.mjs'
import { once, within } from './testkit/wait.mjs'

/** A machine with nothing but itself: a server that runs on its defaults, and an author's site in its DHT. */
const BEFORE = `
set -eu
ip link set lo up
touch ready published
# However full the disk of this machine is.
export SWARMGATE__PINS__KEEP_FREE=0
export PATH=$PWD:$PATH SWARMGATE__DHT__BOOTSTRAP='["127.0.0.1:6882"]' SWARMGATE__GOSSIP__LOCAL_DISCOVERY=false
trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
swarmgate serve > ready 2> server.log &
tail -f -n +1 --pid=$! ready | grep -m1 -q ready
swarmgate publish tides --json > published 2> author.log &
PUBLISHED=$(tail -f -n +1 --pid=$! published | grep -m1 published)
# curl as the user has it, but a refusal is a failure, and what never ends is left.
curl() {
  case "$*" in
    */v1/events) command curl --fail-with-body -sS --max-time 2 "$@" || [ $? = 28 ] ;;
    *) command curl --fail-with-body -sS "$@" ;;
  esac
  echo
}
`

trial('the README, from the first pin to the last', async (lab) => {
  const text = await readFile(new URL('../../README.md', import.meta.url), 'utf8')
  const section = /^## Keeping sites online$(.*?)^## /ms.exec(text)?.[1] ?? ''
  const blocks = [...section.matchAll(/^```sh\n(.*?)^```$/gms)].map(([, block = '']) => block)
  assert.equal(blocks.length, 4)
  // The only word that is another: the key, which is the author's.
  const key = 'KEY=8543d3e6115f0f98c944077a4493dcd543e49c739fd998550a1f614ab36ed63e '
  assert.ok(blocks[0]?.startsWith(key))
  const own = `KEY=$(sed -E 's/.*"key":"([0-9a-f]*)".*/\\1/' <<<"$PUBLISHED") `
  const steps = blocks.join('').replace(key, own).trim().split('\n')
  const script = [BEFORE, ...steps.flatMap((step, n) => [`echo "== ${n}"`, step]), 'echo "== end"'].join('\n')

  const home = await lab.directory()
  await writeSite(join(home, 'tides'))
  await symlink(BINARY, join(home, 'swarmgate'))
  await writeFile(join(home, 'walk'), script)
  // A terminal of its own, so that what people see is seen: `script` gives the shell one.
  const child = spawn('unshare', ['--net', 'script', '-qec', 'bash walk', '/dev/null'], {
    cwd: home,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let said = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (said += data))
  lab.keep(child, { stop: async () => void child.kill('SIGKILL'), account: () => said })
  const [code] = await within(90, 'end of the walk', once(child, 'close'))
  if (code !== 0) lab.note(await readFile(join(home, 'server.log'), 'utf8'))
  assert.equal(code, 0, said)

  /** What a command said, which begins with these words. @param {string} words */
  const answer = (words) => {
    const n = steps.findIndex((step) => step.startsWith(words))
    assert.ok(n >= 0, words)
    return new RegExp(`^== ${n}\\r?$(.*?)^== `, 'ms').exec(said)?.[1] ?? ''
  }
  /** @type {[string, RegExp][]} */
  const table = [
    ['swarmgate pin add', /\x1b\[.*pinned\r?\n +magnet:/s],
    ['swarmgate pin ls', /pinned/],
    ['swarmgate pin status', /record 1: put/],
    ['swarmgate pin verify', /verified 20/],
    ['swarmgate pin versions', /kept/],
    ['swarmgate token ls', /0 of 50 pins, 0 B of 10\.0 GiB, until 20.* anna/],
    [
      'SWARMGATE_SERVER=http://localhost:8080 SWARMGATE_TOKEN=$TOKEN swarmgate usage',
      /1 of 50 pins, 188\.\d KiB of 10\.0 GiB/,
    ],
    ['curl -H "$AUTH" $PIN  ', /"name":"","follow":true.*"status":"pinned","trouble":null/],
    ['curl -H "$AUTH" "$SERVER/v1/pins?status=', /"pins":\[\]/],
    ['curl -H "$AUTH" $PIN/versions', /"seq":1,"state":"kept"/],
    ['curl -H "$AUTH" -X POST $PIN/republish', /"holders":\d/],
    ['curl -H "$AUTH" -H "$JSON" -X PATCH', /"keep":\{"versions":1,"days":30\}/],
    ['curl -H "$AUTH" -H \'Last-Event-ID: 0\'', /event: created.*event: current.*event: changed/s],
    ['curl $SERVER/v1/sites/$KEY/index.md', /^# Tide tables/m],
    ['curl -r 0-9 $SERVER', /^# Tide tab\r?$/m],
  ]
  for (const [words, expected] of table) assert.match(answer(words), expected, words)
})
