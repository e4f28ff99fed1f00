/** Markdown → HTML text. Raw HTML in a page is shown as text; the result still goes through the door before display. */
import MarkdownIt from 'markdown-it'

export interface Rendered {
  /** Not yet sanitised. */
  readonly html: string
  /** The page's first heading, as text. */
  readonly title: string | null
}

const markdown = new MarkdownIt({ html: false, linkify: true })
type Token = ReturnType<typeof markdown.parse>[number]

// Bare words such as "example.com" or "readme.md" are words; only full addresses become links.
markdown.linkify.set({ fuzzyLink: false, fuzzyEmail: false })

// Tables are aligned by attribute: the page's policy forbids style attributes.
for (const rule of ['th_open', 'td_open']) {
  markdown.renderer.rules[rule] = (tokens, index, options, _env, self) => {
    const token = tokens[index] as Token
    const align = /text-align:(\w+)/.exec(String(token.attrGet('style')))?.[1]
    token.attrs = align === undefined ? null : [['align', align]]
    return self.renderToken(tokens, index, options)
  }
}

markdown.renderer.rules['fence'] = (tokens, index) => {
  const { content, info } = tokens[index] as Token
  const language = /^[\w+#.-]+/.exec(info.trim())?.[0]
  const attribute = language === undefined ? '' : ` data-language="${language}"`
  return `<pre${attribute}><code>${markdown.utils.escapeHtml(content)}</code></pre>\n`
}

/** Task lists (GitHub): "- [ ] open", "- [x] done". */
markdown.core.ruler.after('inline', 'task', ({ tokens }) => {
  tokens.forEach((token, i) => {
    const first = token.children?.[0]
    const box = /^\[([ xX])\]\s/.exec(first?.content ?? '')
    if (!first || !box || tokens[i - 1]?.type !== 'paragraph_open' || tokens[i - 2]?.type !== 'list_item_open') return
    first.content = first.content.slice(box[0].length)
    const input = new (first.constructor as new (type: string, tag: string, nesting: 0) => Token)(
      'task_box',
      'input',
      0,
    )
    input.attrs = [
      ['type', 'checkbox'],
      ['disabled', ''],
      ...(box[1] === ' ' ? [] : [['checked', ''] as [string, string]]),
    ]
    token.children?.unshift(input)
  })
})

export function renderMarkdown(source: string): Rendered {
  const env = {}
  const tokens = markdown.parse(source, env)
  return { html: markdown.renderer.render(tokens, markdown.options, env), title: firstHeading(tokens) }
}

function firstHeading(tokens: readonly Token[]): string | null {
  const heading = tokens[tokens.findIndex(({ type }) => type === 'heading_open') + 1]
  if (heading?.type !== 'inline') return null
  const title = (heading.children ?? []).map(({ content, type }) => (type === 'softbreak' ? ' ' : content)).join('')
  return title.trim() || null
}
