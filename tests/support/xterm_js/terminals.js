// Terminals as VS Code draws them, without a window: one JSON request a line in, one JSON answer a line out.
//   open {id, columns, rows} · write {id, data} · resize {id, columns, rows} · look {id} · close {id}
// Bytes travel as base64. `write` is answered when all of it was parsed, with what the terminal itself replied.
'use strict';

const { createInterface } = require('node:readline');
const { Terminal } = require('@xterm/headless');

const HISTORY_LINES = 1000;
const terminals = new Map();

function open({ id, columns, rows }) {
  const terminal = new Terminal({ cols: columns, rows, scrollback: HISTORY_LINES, allowProposedApi: true });
  const state = { terminal, title: '', replies: [] };
  terminal.onTitleChange((title) => { state.title = title; });
  terminal.onData((data) => state.replies.push(Buffer.from(data, 'utf8')));
  terminal.onBinary((data) => state.replies.push(Buffer.from(data, 'latin1')));
  terminals.set(id, state);
  return {};
}

async function write({ id, data }) {
  const { terminal, replies } = terminals.get(id);
  await new Promise((parsed) => terminal.write(Buffer.from(data, 'base64'), parsed));
  return { replies: Buffer.concat(replies.splice(0)).toString('base64') };
}

function resize({ id, columns, rows }) {
  terminals.get(id).terminal.resize(columns, rows);
  return {};
}

// The 16 named colours and the first 16 of the palette are the same ones.
function colour(isRgb, number) {
  return isRgb ? number.toString(16).padStart(6, '0') : String(number);
}

// What a person sees of a cell, as [characters, style]; the right half of a wide character is ['', …].
// Nobody sees colours of letters, or weight, where there is no letter: terminals keep them or not as they like.
function seen(cell, link) {
  const isWideTail = cell.getWidth() === 0;
  const characters = cell.getChars() || (isWideTail ? '' : ' ');
  const flags = [];
  const note = (name, is) => { if (is) flags.push(name); };
  note('inverse', cell.isInverse());
  note('underline', cell.isUnderline());
  note('strike', cell.isStrikethrough());
  note('overline', cell.isOverline());
  const showsLetterColour = characters !== ' ' || flags.length > 0;
  if (showsLetterColour) {
    if (!cell.isFgDefault()) flags.push(`fg${colour(cell.isFgRGB(), cell.getFgColor())}`);
    note('bold', cell.isBold());
    note('dim', cell.isDim());
    note('italic', cell.isItalic());
    note('blink', cell.isBlink());
    note('invisible', cell.isInvisible());
  }
  if (!cell.isBgDefault()) flags.push(`bg${colour(cell.isBgRGB(), cell.getBgColor())}`);
  if (cell.isUnderline() && cell.extended) flags.push(`ul${cell.extended.underlineStyle}:${cell.extended.underlineColor}`);
  if (link) flags.push(`link ${link}`);
  return [characters, flags.join(' ')];
}

function grid(terminal, buffer) {
  const links = terminal._core._oscLinkService;
  const rows = [];
  for (let y = 0; y < terminal.rows; y++) {
    const line = buffer.getLine(buffer.baseY + y);
    const row = [];
    for (let x = 0; x < terminal.cols; x++) {
      const cell = line.getCell(x);
      const urlId = cell.extended ? cell.extended.urlId : 0;
      row.push(seen(cell, urlId ? links.getLinkData(urlId)?.uri : ''));
    }
    rows.push(row);
  }
  return rows;
}

// The last lines above the screen, the newest last.
function history(terminal, count) {
  const buffer = terminal.buffer.normal;
  const lines = [];
  for (let y = Math.max(0, buffer.baseY - count); y < buffer.baseY; y++) lines.push(buffer.getLine(y).translateToString(true));
  return lines;
}

function look({ id, history_lines: count = 0 }) {
  const { terminal, title } = terminals.get(id);
  const core = terminal._core;
  const active = terminal.buffer.active;
  const inner = core._bufferService.buffer;
  const pen = core._inputHandler._curAttrData;
  return {
    rows: grid(terminal, active),
    behind: active.type === 'alternate' ? grid(terminal, terminal.buffer.normal) : [],
    history: history(terminal, count),
    cursor: [active.cursorX, active.cursorY],
    title,
    modes: {
      ...terminal.modes,
      screen: active.type,
      isCursorHidden: core.coreService.isCursorHidden,
      cursorStyle: core.coreService.decPrivateModes.cursorStyle ?? null,
      mouseEncoding: core.coreMouseService.activeEncoding,
      scrollRegion: [inner.scrollTop, inner.scrollBottom],
      tabStops: Object.keys(inner.tabs).map(Number).filter((column) => inner.tabs[column] && column < terminal.cols),
      characterSet: core._charsetService.glevel,
      linesAreDrawn: core._charsetService.charset !== undefined,
      pen: [pen.fg, pen.bg, pen.extended.underlineStyle],
    },
  };
}

function close({ id }) {
  terminals.get(id).terminal.dispose();
  terminals.delete(id);
  return {};
}

const OPERATIONS = { open, write, resize, look, close };

async function main() {
  for await (const line of createInterface({ input: process.stdin })) {
    const { operation, ...given } = JSON.parse(line);
    process.stdout.write(`${JSON.stringify(await OPERATIONS[operation](given))}\n`);
  }
}

main();
