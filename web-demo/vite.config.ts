import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { brotliCompressSync, gzipSync } from 'node:zlib'

import type { Plugin, Rollup } from 'vite'
import { defineConfig } from 'vitest/config'

const at = (path: string) => fileURLToPath(new URL(path, import.meta.url))

/** What reading a page may cost in all, compressed: the promise of this app. */
const READING_BUDGET = 130 * 1024

/** What the client library may cost by itself. */
const CLIENT_BUDGET = 8 * 1024

/** What of the client library not every page needs: `/client/magnet.js` and so on. */
const PARTS = ['magnet', 'sites', 'web-seeds', 'gossip', 'bittorrent-dht']

export default defineConfig({
  resolve: {
    alias: [
      { find: /^swarmgate-client$/, replacement: at('packages/client/src/index.ts') },
      { find: /^swarmgate-client\/(.*)$/, replacement: at('packages/client/src/$1.ts') },
      // markdown-it's table of named entities is 16 KB; the browser has one.
      { find: 'entities', replacement: at('src/site/entities.ts') },
    ],
  },
  build: {
    target: 'es2022',
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rollupOptions: {
      // The library is at stable addresses, for pages of other authors: `import('/client.js')`.
      input: {
        index: at('index.html'),
        client: at('packages/client/src/index.ts'),
        ...Object.fromEntries(PARTS.map((part) => [`client/${part}`, at(`packages/client/src/${part}.ts`)])),
      },
      preserveEntrySignatures: 'allow-extension',
      output: {
        entryFileNames: ({ name }) => (name.startsWith('client') ? '[name].js' : 'assets/[name]-[hash].js'),
      },
    },
  },
  // `npm run dev` beside a server that runs on its defaults.
  server: { proxy: { '/announce': { target: 'ws://127.0.0.1:8080', ws: true } } },
  plugins: [plainImports(), sizes(), compressed()],
  test: {
    include: ['src/**/*.test.{ts,tsx}', 'packages/*/src/**/*.test.ts'],
    restoreMocks: true,
  },
})

/**
 * Lets a dynamic import be one. Vite wraps each in a helper that preloads style sheets and chunks; ours have none, and the
 * helper would be an eighth of the client library.
 */
function plainImports(): Plugin {
  return {
    name: 'plain-imports',
    enforce: 'pre',
    load: (id) => (id.includes('vite/preload-helper') ? 'export const __vitePreload = (load) => load()' : null),
  }
}

/** Prints what a reader downloads and fails the build when it is over budget. Fallbacks that few load are not counted. */
function sizes(): Plugin {
  return {
    name: 'sizes',
    apply: 'build',
    generateBundle(_options, bundle) {
      const size = (file: Rollup.OutputAsset | Rollup.OutputChunk) =>
        gzipSync(file.type === 'chunk' ? file.code : file.source).length
      /** The scripts that one of them brings in, itself included. */
      const loaded = (name: string, seen = new Set<string>()): Set<string> => {
        const file = bundle[name]
        if (file?.type !== 'chunk' || seen.has(name) || name.includes('ed25519')) return seen
        seen.add(name)
        for (const next of [...file.imports, ...file.dynamicImports]) loaded(next, seen)
        return seen
      }
      const sum = (names: Iterable<string>) =>
        [...names].reduce((total, name) => total + size(bundle[name] as Rollup.OutputChunk), 0)
      const [index = ''] = Object.values(bundle).flatMap((file) =>
        'isEntry' in file && file.name === 'index' ? file.fileName : [],
      )
      const styles = Object.keys(bundle).filter((name) => name.endsWith('.css'))
      const total = sum([...loaded(index), ...styles])
      const client = sum(loaded('client.js'))
      const kib = (bytes: number) => `${(bytes / 1024).toFixed(1)} KiB`
      const parts = PARTS.map((part) => `client/${part}.js ${kib(sum([`client/${part}.js`]))}`)
      this.info(
        `reading ${kib(total)} of ${kib(READING_BUDGET)}, client.js ${kib(client)} of ${kib(CLIENT_BUDGET)}, besides it ${parts.join(', ')} (gzip)`,
      )
      if (total > READING_BUDGET || client > CLIENT_BUDGET) this.error('over the size budget')
    },
  }
}

/** Writes `x.js.br` beside `x.js`: the server sends it to browsers that take it, and compresses nothing itself. */
function compressed(): Plugin {
  return {
    name: 'compressed',
    apply: 'build',
    writeBundle({ dir = '' }) {
      const names = readdirSync(dir, { recursive: true, encoding: 'utf8' })
      for (const name of names.filter((name) => /\.(js|css|html|svg)$/.test(name))) {
        const file = join(dir, name)
        writeFileSync(`${file}.br`, brotliCompressSync(readFileSync(file)))
      }
    },
  }
}
