"use strict";
// Unpacks what eval/dynamics/texts.py packed; nothing is unpacked before it is asked for.
const SHORT = 190, END = 254, ESCAPE = 255;

async function inflate(id) {
  const element = document.getElementById(id);
  if (!element) return null;
  const binary = atob(element.textContent), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function inflateJson(id) { return JSON.parse(new TextDecoder().decode(await inflate(id))); }

let vocabulary = null;
const CACHED = 48, cache = new Map();

// The texts of one chunk, or null where the page does not hold them. The last 48 chunks stay unpacked.
async function readChunk(id) {
  if (cache.has(id)) { const found = cache.get(id); cache.delete(id); cache.set(id, found); return found; }
  const texts = (async () => {
    const raw = await inflate(id);
    return raw && decodeTexts(raw);
  })();
  cache.set(id, texts);
  if (cache.size > CACHED) cache.delete(cache.keys().next().value);
  return texts;
}

function decodeTexts(raw) {
  const texts = [], decoder = new TextDecoder();
  let text = "";
  for (let i = 0; i < raw.length; i++) {
    const byte = raw[i];
    if (byte < SHORT) text += vocabulary[byte];
    else if (byte === END) { texts.push(text); text = ""; }
    else if (byte === ESCAPE) {
      const end = raw.indexOf(ESCAPE, i + 1);
      text += decoder.decode(raw.subarray(i + 1, end));
      i = end;
    } else text += vocabulary[SHORT + ((byte - SHORT) << 8) + raw[++i]];
  }
  return texts;
}

// The parts of a response, cut at its tags as eval/dynamics/features.py does: [[class, text], ...] in order.
function splitParts(response) {
  const end = response.match(/(?:<\|[a-z_]+\|>|<\/s>|<eos>|<pad>)+\s*$/);
  const body = end ? response.slice(0, end.index) : response;
  const pieces = body.split(/(<\/?(?:think|answer)>)/), opened = new Set();
  let place = pieces.includes("<think>") ? "before" : "untagged";
  const parts = [[place, pieces[0]]];
  for (let i = 1; i < pieces.length; i += 2) {
    const name = pieces[i].replace(/[<>/]/g, "");
    if (pieces[i][1] !== "/" && !opened.has(name)) { opened.add(name); place = name; }
    else if (place !== "untagged" || opened.has("answer")) place = "after";
    parts.push(["tag", pieces[i]], [place, pieces[i + 1]]);
  }
  if (end) parts.push(["tag", end[0]]);
  return parts.filter(([, text]) => text);
}
