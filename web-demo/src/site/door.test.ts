// @vitest-environment jsdom
import { describe, expect, test } from 'vitest'

import { decodeEntity, sanitize } from './door.ts'
import { renderMarkdown } from './markdown.ts'

function clean(html: string): string {
  const box = document.createElement('div')
  box.append(sanitize(html))
  return box.innerHTML
}

describe('what a page may not bring', () => {
  test.each([
    ['a script', '<script>alert(1)</script>hi', 'hi'],
    ['a script that breaks out', '<p><script>"</p><img src=x onerror=alert(1)>"</script></p>', '<p></p>'],
    ['a handler', '<p onclick="alert(1)" onmouseover=alert(2)>hi</p>', '<p>hi</p>'],
    ['an image that fails on purpose', '<img src=x onerror=alert(1)>', '<img data-src="x">'],
    ['an image source set', '<img srcset="https://x/a 1x" src="a.png">', '<img data-src="a.png">'],
    ['a script address', '<a href="javascript:alert(1)">hi</a>', '<a>hi</a>'],
    ['a script address in disguise', '<a href=" java&#9;script:alert(1)">hi</a>', '<a>hi</a>'],
    ['a data address', '<a href="data:text/html,<script>alert(1)</script>">hi</a>', '<a>hi</a>'],
    ['a blob address', '<a href="blob:https://x/y">hi</a>', '<a>hi</a>'],
    ['a drawing with script', '<svg><script>alert(1)</script><a href="javascript:alert(1)">x</a></svg>', ''],
    ['a drawing that loads', '<svg><image href="https://x/a.png"/></svg>', ''],
    ['mathematics', '<math><mtext><style><img src=x onerror=alert(1)></style></mtext></math>', ''],
    ['a frame', '<iframe src="https://x/"></iframe><iframe srcdoc="<script>alert(1)</script>"></iframe>', ''],
    ['plug-ins', '<object data="x"></object><embed src="x"><applet></applet>', ''],
    ['a style sheet', '<style>body{background:url(https://x/leak)}</style>hi', 'hi'],
    ['a style', '<p style="background:url(https://x/leak)">hi</p>', '<p>hi</p>'],
    ['a linked style sheet', '<link rel="stylesheet" href="https://x/a.css">hi', 'hi'],
    ['a form', '<form action="https://x/"><input name="password"><button>Go</button></form>', 'Go'],
    ['a form by attribute', '<button formaction="javascript:alert(1)">Go</button>', 'Go'],
    ['a field', '<input type="password" autofocus onfocus=alert(1)>', ''],
    ['a refresh', '<meta http-equiv="refresh" content="0;url=https://x/">hi', 'hi'],
    ['a base', '<base href="https://x/">hi', 'hi'],
    ['video that loads', '<video src="https://x/v" poster="https://x/p" autoplay></video>', ''],
    ['a template', '<template><img src=x onerror=alert(1)></template>', ''],
    ['the ids and names of the app', '<p id="app" name="body">hi</p><a id=content name=x>y</a>', '<p>hi</p><a>y</a>'],
    ['the classes of the app', '<div class="toast primary">hi</div>', '<div>hi</div>'],
    ['data of its own', '<p data-state="shown" data-file="x">hi</p>', '<p>hi</p>'],
    ['a role', '<p role="alert" aria-live="assertive">hi</p>', '<p>hi</p>'],
    ['elements of its own', '<x-toast>hi</x-toast>', 'hi'],
  ])('%s', (_, html, expected) => expect(clean(html)).toBe(expected))

  test('no nesting brings back what was taken out', () => {
    const nested = clean('<scr<script></script>ipt>alert(1)</scr<script></script>ipt>')
    expect(nested).not.toMatch(/<script/i)
    const mutation = clean('<form><math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>')
    expect(mutation).not.toMatch(/onerror|<style|<form/i)
  })
})

describe('what it may', () => {
  test.each([
    '<h1>Title</h1><p>a <em>b</em> <strong>c</strong> <del>d</del> <code>e</code></p>',
    '<ul><li>a</li></ul><ol start="3"><li>b</li></ol><blockquote><p>c</p></blockquote><hr>',
    '<table><thead><tr><th align="right">a</th></tr></thead><tbody><tr><td align="center">b</td></tr></tbody></table>',
    '<pre data-language="rust"><code>fn</code></pre>',
    '<a href="a/b.md#c" title="t">x</a> <a href="https://x/">y</a> <a href="mailto:a@b">z</a> <a href="magnet:?xt=urn:btih:1">m</a>',
    '<a href="a:b.md/c">relative? no: an unknown scheme</a>'.replace(' href="a:b.md/c"', ''),
    '<li><input type="checkbox" disabled="" checked=""> done</li>',
  ])('%s', (html) => expect(clean(html)).toBe(html))

  test('a box cannot be ticked', () => {
    expect(clean('<input type="checkbox">')).toBe('<input type="checkbox" disabled="">')
  })
})

describe('Markdown through the door', () => {
  const page = (source: string) => clean(renderMarkdown(source).html).trim()

  test.each([
    ['raw HTML is text', 'a <b>c</b>', '<p>a &lt;b&gt;c&lt;/b&gt;</p>'],
    ['a script is text', '<script>alert(1)</script>', '<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>'],
    ['a script link is text', '[x](javascript:alert(1))', '<p>[x](javascript:alert(1))</p>'],
    ['an image waits', '![alt *text*](a%20b.png "t")', '<p><img alt="alt text" title="t" data-src="a%20b.png"></p>'],
    [
      'addresses become links',
      'see https://x.example/a.',
      '<p>see <a href="https://x.example/a">https://x.example/a</a>.</p>',
    ],
    ['words do not', 'read.me and a@b.example', '<p>read.me and a@b.example</p>'],
    ['entities', '&eacute;&#x41;&nosuch; &amp;lt;', '<p>éA&amp;nosuch; &amp;lt;</p>'],
    ['a fence names its language', '```rust title="x"\nfn\n```', '<pre data-language="rust"><code>fn\n</code></pre>'],
    ['a fence names nothing else', '```"><script>\nx\n```', '<pre><code>x\n</code></pre>'],
    ['struck out', '~~a~~', '<p><s>a</s></p>'],
  ])('%s', (_, source, expected) => expect(page(source)).toBe(expected))

  test('tables are aligned by attribute', () => {
    expect(page('|a|b|\n|-:|--|\n|1|2|')).toContain('<th align="right">a</th>\n<th>b</th>')
  })

  test('task lists', () => {
    expect(page('- [x] done\n- [ ] open\n- [no] list')).toBe(
      '<ul>\n<li><input type="checkbox" disabled="" checked="">done</li>\n<li><input type="checkbox" disabled="">open</li>\n<li>[no] list</li>\n</ul>',
    )
  })

  test.each([
    ['# A *b* `c`\n\n## D', 'A b c'],
    ['text\n\nTitle\n=====\n', 'Title'],
    ['# ![logo](a.png)', 'logo'],
    ['no heading', null],
    ['#', null],
    ['', null],
  ])('the title of %j is %j', (source, title) => expect(renderMarkdown(source).title).toBe(title))

  test('a hostile page is read in good time', () => {
    const started = performance.now()
    for (const source of [
      '['.repeat(20_000),
      '*a '.repeat(20_000),
      '> '.repeat(5_000),
      '&'.repeat(50_000),
      '`'.repeat(30_000),
    ]) {
      page(source)
    }
    expect(performance.now() - started).toBeLessThan(10_000)
  })
})

test.each([
  ['&amp;', '&'],
  ['&hellip;', '…'],
  ['&NotEqualTilde;', '≂̸'],
  ['&nosuch;', '&nosuch;'],
  ['<b>', '<b>'],
  ['&lt;script>', '&lt;script>'],
])('entity %s', (entity, character) => expect(decodeEntity(entity)).toBe(character))
