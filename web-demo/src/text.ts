/** Every sentence the app says, in one catalogue; a translation is another object of this shape. */
import type { Notice, Phase, Problem } from './state.ts'

const count = new Intl.NumberFormat('en')
const percent = new Intl.NumberFormat('en', { style: 'percent' })
const ago = new Intl.RelativeTimeFormat('en', { numeric: 'auto' })

const problems: Readonly<Record<Problem['code'], (detail: string) => string>> = {
  'bad-link': (detail) => `This link cannot be opened: ${detail}.`,
  insecure: () => 'This page must be opened over https (or on this computer itself) to take part in a swarm.',
  'no-webrtc': () => 'This browser has no WebRTC, or it is switched off, so it cannot reach other readers.',
  'no-server': () => 'This page’s server cannot be reached. Check the connection, then try again.',
  unsupported: () => 'This page’s server is a tracker that cannot look up keys.',
  refused: (detail) => `The server refused to look the key up: ${detail}.`,
  'not-found': () => 'Nothing is published under this key, or nobody who holds it is online.',
  forged: () => 'The server answered with a record that the key did not sign. It was not used.',
  stale: () => 'The server only has a version older than one you have seen. It was not used.',
  'no-torrent': () => 'The record under this key does not point to a site.',
  'no-peers': () => 'Nobody who has this site is online right now. Still looking.',
  torrent: (detail) => `The site could not be loaded: ${detail}.`,
  'no-page': () => 'There is no Markdown page here to show.',
  'page-missing': (path) => `This version of the site has no page “${path}”.`,
  'page-too-large': (path) => `The page “${path}” is too large to show.`,
  unexpected: (detail) => `Something went wrong: ${detail}.`,
}

const phases: Readonly<Record<Phase, string>> = {
  start: '',
  'finding-record': 'Finding the record',
  'finding-peers': 'Finding peers',
  loading: 'Loading',
  shown: 'Shown',
  error: 'Stopped',
}

const notices: Readonly<Record<Notice, string>> = {
  'up-to-date': 'This is the newest version.',
  'check-failed': 'Could not check for an update. The page on display is unchanged.',
  unchecked: 'Showing the version named in the link: the record of its key could not be looked up.',
  copied: 'Link copied.',
  'not-copied': 'The link could not be copied. It is in the address bar.',
  'not-saved': 'The file could not be loaded.',
}

export const text = {
  appName: 'Swarmgate',
  skip: 'Skip to the page',
  startTitle: 'Open a site from the swarm',
  startLead: 'A site here has no host. Its author signs it with a key, its readers pass it on to each other.',
  linkLabel: 'Link to a site or a torrent',
  linkHint: 'Paste a magnet link. It starts with magnet:? and carries a key or an info hash.',
  open: 'Open',
  home: 'Start page',
  copyLink: 'Copy link',
  checkUpdate: 'Check for update',
  checking: 'Checking…',
  retry: 'Try again',
  pageProblemTitle: 'This page cannot be shown',
  toSiteHome: 'Go to the site’s first page',
  details: 'Details',
  updateTitle: 'A new version is available',
  showUpdate: 'Show it',
  later: 'Not now',
  steps: 'Opening the site',
  phase: (phase: Phase, problem: Problem | null = null) =>
    phases[problem?.code === 'no-peers' ? 'finding-peers' : phase],
  problem: ({ code, detail }: Problem) => problems[code](detail),
  problemTitle: ({ code }: Problem) => (code === 'no-peers' ? 'Waiting for somebody' : 'This site cannot be shown'),
  notice: (notice: Notice) => notices[notice],
  record: (seq: number) => `record ${count.format(seq)}`,
  signedBy: (key: string) => `signed by ${key}`,
  signer: 'Signed by',
  infoHash: 'Info hash',
  checked: 'Checked',
  loaded: 'Loaded',
  speedLabel: 'Speed',
  pages: 'Pages',
  peers: (peers: number) => (peers === 1 ? '1 peer' : `${count.format(peers)} peers`),
  percent: (progress: number) => percent.format(Math.floor(progress * 100) / 100),
  speed: (bytes: number) => `${bytesText(bytes)}/s`,
  ago: (milliseconds: number) => {
    const seconds = Math.round(milliseconds / 1000)
    if (seconds < 60) return ago.format(-seconds, 'second')
    if (seconds < 3600) return ago.format(-Math.round(seconds / 60), 'minute')
    return ago.format(-Math.round(seconds / 3600), 'hour')
  },
  remoteImage: (host: string) => `Image on ${host}, not loaded`,
  missingImage: 'This image is not in the site',
  brokenImage: 'This image cannot be shown',
  openRemote: 'Open it there',
  deadLink: {
    outside: 'This link leaves the site',
    missing: 'This page is not in the site',
    scheme: 'This kind of link is not followed',
  },
  headingLink: (title: string) => `Link to “${title}”`,
  copyCode: 'Copy',
  codeCopied: 'Copied',
  code: 'Code',
  table: 'Table',
  done: 'done',
  notDone: 'not done',
} as const

function bytesText(bytes: number): string {
  for (const [unit, size] of [
    ['MB', 1e6],
    ['kB', 1e3],
  ] as const) {
    if (bytes >= size) return `${(bytes / size).toFixed(1)} ${unit}`
  }
  return `${Math.round(bytes)} B`
}
