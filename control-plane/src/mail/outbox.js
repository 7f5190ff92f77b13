// The secret stands behind the # of the address: it is taken from there at once, kept in memory and sent in a header.
"use strict";
const ticket = location.hash.slice(1);
history.replaceState(null, "", location.pathname);
const at = (id) => document.getElementById(id);

async function ask(path) {
  const answer = await fetch(path, { headers: { Authorization: "Bearer " + ticket }, credentials: "omit" });
  if (!answer.ok) throw new Error((await answer.json()).detail);
  return answer.json();
}

async function show(mail) {
  const whole = await ask("/v1/outbox/" + encodeURIComponent(mail.id));
  at("subject").textContent = whole.subject + " (to " + whole.recipient + ")";
  at("text").textContent = whole.text ?? "It was sent, and its text erased.";
}

async function list() {
  for (const mail of (await ask("/v1/outbox")).items) {
    const row = at("mails").insertRow();
    for (const cell of [mail.created_at, mail.recipient, mail.state]) row.insertCell().textContent = cell;
    const button = document.createElement("button");
    button.textContent = mail.subject;
    button.addEventListener("click", () => show(mail).catch(fail));
    row.insertCell().append(button);
  }
}

function fail(error) {
  at("said").textContent = error.message + ": run `howdah outbox` again for another link.";
}

list().catch(fail);
