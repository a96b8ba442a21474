// The session API, and nothing else of the server. The token lives in this tab alone.

let token = sessionStorage.getItem("token") || "";

export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function setToken(value) {
  token = value;
  if (value) sessionStorage.setItem("token", value);
  else sessionStorage.removeItem("token");
}

export const hasToken = () => Boolean(token);

function headers(more = {}) {
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

async function refusal(response) {
  let message = `${response.status} ${response.statusText}`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // not one of the server's own errors
  }
  return new Refusal(response.status, message);
}

export async function call(method, path, body, signal) {
  const options = { method, headers: headers(body === undefined ? {} : { "Content-Type": "application/json" }), signal };
  if (body !== undefined) options.body = JSON.stringify(body);
  const response = await fetch(`v1/${path}`, options);
  if (!response.ok) throw await refusal(response);
  return response;
}

export const json = async (method, path, body) => (await call(method, path, body)).json();

// The events of an answer, one by one.
export async function* stream(path, body, signal) {
  const response = await call("POST", path, { ...body, stream: true }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) if (event.startsWith("data: ")) yield JSON.parse(event.slice(6));
  }
}

// A file with its progress, which fetch can't tell of.
export function upload(path, file, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `v1/${path}`);
    for (const [name, value] of Object.entries(headers({ "Content-Type": "text/plain" }))) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => onProgress(event.lengthComputable ? event.loaded / event.total : 0);
    request.onerror = () => reject(new Refusal(0, "the connection broke"));
    request.onload = () => {
      let answer = {};
      try {
        answer = JSON.parse(request.responseText);
      } catch {
        // told below
      }
      if (request.status < 300) resolve(answer);
      else reject(new Refusal(request.status, answer.error ? answer.error.message : `${request.status}`));
    };
    request.send(file);
  });
}
