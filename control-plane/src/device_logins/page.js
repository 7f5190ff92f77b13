"use strict";
const part = (id) => document.getElementById(id);
let session = null;
const tell = (text) => { part("told").textContent = text; };
async function ask(method, path, body, keepalive) {
  const headers = { "content-type": "application/json" };
  if (session) headers.authorization = "Bearer " + session;
  const answer = await fetch(path, { method, headers, keepalive, credentials: "omit", body: body && JSON.stringify(body) });
  const text = await answer.text();
  const said = text ? JSON.parse(text) : {};
  if (!answer.ok) throw new Error([said.detail, said.hint].filter(Boolean).join("; "));
  return said;
}
async function leave() {
  if (!session) return;
  const ended = ask("DELETE", "/v1/sessions/current", undefined, true);
  session = null;
  await ended.catch(() => {});
}
async function decide(approve) {
  try {
    await ask("POST", "/v1/device-logins/decision", { user_code: part("code").value, approve });
    part("request").hidden = true;
    tell(approve ? "Approved. The command line goes on by itself; you can close this page." : "Refused. Nobody was logged in.");
  } catch (error) {
    tell(error.message);
  }
  await leave();
}
part("who").hidden = false;
part("code").value = decodeURIComponent(location.hash.slice(1)).slice(0, 20);
history.replaceState(null, "", location.pathname);
part("who").addEventListener("submit", async (event) => {
  event.preventDefault();
  tell("");
  try {
    const made = await ask("POST", "/v1/sessions", { email: part("email").value, password: part("password").value });
    session = made.session_token;
    const request = await ask("POST", "/v1/device-logins/request", { user_code: part("code").value });
    part("client").textContent = request.client;
    part("address").textContent = request.address;
    part("since").textContent = new Date(request.requested_at).toLocaleTimeString();
    part("shown").textContent = request.user_code;
    part("who").hidden = true;
    part("request").hidden = false;
  } catch (error) {
    tell(error.message);
    await leave();
  }
  part("password").value = "";
});
part("approve").addEventListener("click", () => decide(true));
part("refuse").addEventListener("click", () => decide(false));
addEventListener("pagehide", leave);
