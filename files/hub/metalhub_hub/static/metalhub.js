// What Metalhub's pages share. It comes before a page's own script.
const metalhub = (() => {
  const base = window.jhdata.base_url;
  const headers = {"X-XSRFToken": window.jhdata.xsrf_token, "Content-Type": "application/json"};
  const wait = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

  // Ask the hub's API. What comes back has `ok`, the answer's keys, and where it was refused a sentence in `message`.
  async function ask(method, path, body) {
    try {
      const answer = await fetch(base + path, {method, headers, body: body === undefined ? undefined : JSON.stringify(body)});
      const found = await answer.json().catch(() => ({}));
      return {...found, ok: answer.ok, message: found.message ?? (answer.ok ? "" : "That did not work; try again.")};
    } catch (error) {
      return {ok: false, message: "The hub did not answer; try again."};
    }
  }

  // The address of a session below /hub/api/users/<user>/, of what is done to it in Metalhub's API, and of the page that starts it.
  const part = encodeURIComponent;
  const server = (user, name) => `api/users/${part(user)}/` + (name ? `servers/${part(name)}` : "server");
  const act = (user, name, what) => `metalhub/api/users/${part(user)}/` + (name ? `sessions/${part(name)}/${what}` : `session/${what}`);
  const spawn = (user, name) => `spawn/${part(user)}` + (name ? `/${part(name)}` : "");

  // A user's sessions; none where the hub does not say.
  const sessions = async (user) => (await ask("GET", `metalhub/api/users/${part(user)}/sessions`)).sessions ?? [];

  // Once a session that was told to stop has ended, go on to start it with a profile.
  async function again(user, name, profile) {
    for (let tries = 0; tries < 60; tries++) {
      const found = (await sessions(user)).find((session) => session.name === name);
      if (!found || ["absent", "stopped", "expired"].includes(found.state) && !found.pending) break;
      await wait(0.5);
    }
    location.href = `${base}${spawn(user, name)}?opt-profile=${part(profile)}`;
  }

  // A countdown's time.
  function clock(seconds) {
    const left = Math.max(0, Math.round(seconds)), minutes = Math.ceil(left / 60);
    if (minutes > 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
    return left >= 600 ? `${minutes} min` : `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}`;
  }

  // Times in the reader's own zone and form.
  function localise(root, form) {
    for (const time of root.querySelectorAll("time")) {
      const date = new Date(time.dateTime);
      if (isNaN(date)) continue;
      time.title = time.dateTime;
      time.textContent = date.toLocaleString(undefined, form);
    }
  }

  async function copy(node) {
    try {
      await navigator.clipboard.writeText(node.textContent);
      return true;
    } catch (error) {  // without TLS there is no clipboard
      const range = document.createRange();
      range.selectNodeContents(node);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      return document.execCommand("copy");
    }
  }

  localise(document);
  // A choice of a list is meant; a text is when its field is left or Enter is pressed.
  for (const form of document.querySelectorAll("form.mh-filter")) {
    form.addEventListener("change", () => form.requestSubmit());
    // What says nothing makes no address longer.
    form.addEventListener("submit", () => { for (const field of form.elements) field.disabled ||= Boolean(field.name) && !field.value; });
    addEventListener("pageshow", () => { for (const field of form.elements) field.disabled = false; });
  }
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    button.textContent = await copy(button.previousElementSibling) ? "Copied" : "Selected";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  for (const link of document.querySelectorAll(".navbar a[href]")) {
    if (link.pathname === location.pathname) {
      link.setAttribute("aria-current", "page");
      link.closest(".dropdown")?.querySelector(".dropdown-toggle").classList.add("active");
    }
  }
  return {base, ask, server, act, spawn, sessions, again, clock, localise};
})();
