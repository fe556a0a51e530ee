// JupyterLab's side of a session's end: it is announced here, with a button to extend the session. So is a quota that runs out.
//
// A federated extension by hand: JupyterLab asks such a script for `init`, with the modules that it shares, and for `get`. It is small
// enough to need no build. Its file is served as never changing, so its name holds the first digits of its SHA-256.
(() => {
  const NAME = "metalhub-session", EVERY = 30000, WARNED_EVERY = 5000;
  let shared = {};

  async function share(name) {
    const [version] = Object.values(shared[name]);
    return (await version.get())();
  }

  function hour(seconds) {
    return new Date(Date.now() + seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  }

  async function watch() {
    const page = JSON.parse(document.getElementById("jupyter-config-data").textContent);
    // Somebody with whom a session is shared has no say in it.
    if (!page.hubPrefix || !page.hubUser || page.hubUser !== page.hubServerUser) return;
    const { Notification } = await share("@jupyterlab/apputils");
    const parts = [page.hubServerUser, page.hubServerName].filter(Boolean).map(encodeURIComponent);
    const address = `${page.hubHost ?? ""}${page.hubPrefix}metalhub/notice/${parts.join("/")}`;
    let shown = "", last = false, timer = 0;

    async function extend(ticket) {
      const body = new URLSearchParams({ ticket });
      let message = "The session could not be extended: the hub does not answer. Try again.", type = "error";
      try {
        const answer = await fetch(address, { method: "POST", body });
        message = (await answer.json()).message;
        if (answer.ok) type = "success";
      } catch { /* as above */ }
      Notification.emit(message, type, { autoClose: 8000 });
      look();
    }

    function show(session) {
      if (!session.warned) {
        if (shown) Notification.dismiss(shown);
        shown = "";
        return;
      }
      // Told twice, so that whoever closed it is not asked every few seconds: at first, and in the last minute.
      const ending = session.left <= 60;
      if (shown && (last || !ending)) return;
      if (shown) Notification.dismiss(shown);
      const when = ending ? "within a minute" : `at ${hour(session.left)}`;
      const message = `This session stops ${when} ${session.because}. Your home stays; what is in memory is lost.`;
      const actions = session.extend
        ? [{ label: `Extend by ${session.extend.words}`, displayType: "accent", callback: () => extend(session.ticket) }]
        : [];
      [shown, last] = [Notification.emit(message, "warning", { actions, autoClose: false }), ending];
    }

    const told = new Set();
    function tell(notices) {
      // What a sentence says of hours changes all the time, what it is about does not.
      for (const { key, text } of notices ?? []) {
        if (!told.has(key)) Notification.emit(text, "warning", { autoClose: false });
        told.add(key);
      }
    }

    async function look() {
      clearTimeout(timer);
      let next = EVERY;
      try {
        const answer = await fetch(address);
        if (answer.ok) {
          const session = await answer.json();
          show(session);
          tell(session.notices);
          if (session.warned) next = WARNED_EVERY;
        }
      } catch { /* a hub that restarts ends no session */ }
      timer = setTimeout(look, next);
    }

    document.addEventListener("visibilitychange", () => document.hidden || look());
    look();
  }

  const plugin = {
    id: `${NAME}:notice`,
    description: "Announces the session's end.",
    autoStart: true,
    // What is announced before JupyterLab is there goes unseen.
    activate: (app) => void app.restored.then(watch),
  };
  (window._JUPYTERLAB ??= {})[NAME] = {
    init: (modules) => { shared = modules; },
    get: async () => () => ({ __esModule: true, default: plugin }),
  };
})();
