// Seconds from a put through one server to the subscriber of another one, when the two share nothing but a DHT (eight nodes
// of bittorrent-dht), nothing but the record's topic swarm, or a DHT by which they find each other in that swarm. Prints a
// line of JSON for each, with the release build if SWARMGATE_BIN names it.
//
//   node benches/other_server.mjs [--runs 10] [--quiet SECONDS] [--only dht|swarm|both]
//
// quiet: how long nothing changed before the put. The DHT is asked ever more seldom, up to records.poll_slowest (60 s).

import { setTimeout as pause } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { Lab } from '../tests/e2e/testkit/lab.mjs'
import { arrivals, SHARED } from '../tests/e2e/testkit/other_server.mjs'

const { values } = parseArgs({
  options: {
    runs: { type: 'string', default: '10' },
    quiet: { type: 'string', default: '0' },
    only: { type: 'string', default: '' },
  },
})
const [runs, quiet] = [Number(values.runs), Number(values.quiet)]

// Not in step with whatever the server does at regular times.
const settled = () => pause((quiet + 5 * Math.random()) * 1000)

for (const [shared, share] of Object.entries(SHARED)) {
  if (values.only && values.only !== shared) continue
  const lab = new Lab()
  try {
    const seconds = (await arrivals(await share(lab), { runs, settled })).toSorted((a, b) => a - b)
    const [median = NaN, least = NaN, most = NaN] = [seconds[seconds.length >> 1], seconds[0], seconds.at(-1)]
    const figures = { median, least, most }
    const rounded = Object.fromEntries(Object.entries(figures).map(([name, s]) => [name, Number(s.toFixed(3))]))
    console.log(JSON.stringify({ bench: 'put to subscriber of another server', shared, quiet, runs, seconds: rounded }))
  } finally {
    await lab.close()
  }
}
