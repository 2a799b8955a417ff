// Enough of WXML to show a page: elements, wx:if / wx:elif / wx:else, wx:for, {{expressions}}.

const TAG = /<(\/?)([\w-]+)((?:\s+[\w:-]+(?:="[^"]*")?)*)\s*(\/?)>/g
const ATTRIBUTE = /([\w:-]+)(?:="([^"]*)")?/g
const MUSTACHE = /\{\{(.+?)\}\}/g

export function parse(source) {
  const text = source.replace(/<!--.*?-->/gs, '')
  const root = { tag: 'root', attributes: {}, children: [] }
  const stack = [root]
  let end = 0
  const addText = (piece) => piece.trim() && stack.at(-1).children.push(piece.trim())
  for (const match of text.matchAll(TAG)) {
    addText(text.slice(end, match.index))
    end = match.index + match[0].length
    const [, closing, tag, attributeText, selfClosing] = match
    if (closing) {
      const open = stack.pop()
      if (open.tag !== tag) throw new Error(`</${tag}> closes <${open.tag}>`)
      continue
    }
    const attributes = Object.fromEntries([...attributeText.matchAll(ATTRIBUTE)].map(([, name, value]) => [name, value ?? true]))
    const node = { tag, attributes, children: [] }
    stack.at(-1).children.push(node)
    if (!selfClosing) stack.push(node)
  }
  addText(text.slice(end))
  if (stack.length !== 1) throw new Error(`<${stack.at(-1).tag}> is never closed`)
  if (/[<>]/.test(text.replace(TAG, '').replace(MUSTACHE, ''))) throw new Error('a tag that cannot be read')
  return root
}

export function* everyNode(node) {
  yield node
  for (const child of node.children) if (typeof child === 'object') yield* everyNode(child)
}

export function* expressions(node) {
  for (const { attributes, children } of everyNode(node)) {
    const texts = [...Object.values(attributes), ...children].filter((each) => typeof each === 'string')
    for (const text of texts) for (const [, expression] of text.matchAll(MUSTACHE)) yield expression
  }
}

/** The elements that `data` makes visible, with their attributes evaluated. */
export function render(root, data) {
  return { tag: root.tag, attributes: {}, children: renderAll(root.children, data) }
}

function renderAll(children, data) {
  const shown = []
  let chainTaken = false
  for (const child of children) {
    if (typeof child === 'string') {
      shown.push(interpolate(child, data))
      continue
    }
    const { 'wx:if': ifs, 'wx:elif': elif, 'wx:else': otherwise } = child.attributes
    if (ifs !== undefined) chainTaken = false
    if (ifs ?? elif ?? otherwise) {
      if (chainTaken || (otherwise === undefined && !interpolate(ifs ?? elif, data))) continue
      chainTaken = true
    }
    const items = child.attributes['wx:for'] === undefined ? [null] : interpolate(child.attributes['wx:for'], data)
    items.forEach((item, index) => shown.push(...renderOne(child, item === null ? data : { ...data, item, index })))
  }
  return shown
}

function renderOne({ tag, attributes, children }, data) {
  const inner = renderAll(children, data)
  if (tag === 'block') return inner
  const own = Object.entries(attributes).filter(([name]) => !name.startsWith('wx:'))
  return [{ tag, attributes: Object.fromEntries(own.map(([name, value]) => [name, interpolate(value, data)])), children: inner }]
}

/** A text that is one expression keeps its type; any other becomes a string. Unknown names throw. */
function interpolate(text, data) {
  if (text === true) return true
  const whole = /^\{\{((?:(?!\}\}).)+)\}\}$/.exec(text)
  if (whole) return evaluate(whole[1], data)
  return text.replace(MUSTACHE, (_, expression) => String(evaluate(expression, data)))
}

function evaluate(expression, data) {
  return new Function(...Object.keys(data), `return (${expression})`)(...Object.values(data))
}

export function textOf(node) {
  return typeof node === 'string' ? node : typeof node === 'object' ? node.children.map(textOf).filter(Boolean).join(' ') : String(node)
}
