// JupyterLab's side of a session's end: it is announced here, with a button to extend the session. So is a quota that runs out, and that the
// session is hibernated, with a button to wake it.
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

  // Somebody with whom a session is shared has no say in it.
  const page = JSON.parse(document.getElementById("jupyter-config-data").textContent);
  const own = Boolean(page.hubPrefix && page.hubUser && page.hubUser === page.hubServerUser);
  // Looks at once, and says what the session is; what JupyterLab calls while it is not there yet knows nothing.
  let look = async () => null;

  async function watch(info) {
    if (!own) return;
    // What shows notifications comes with the first one. The server of a hibernated session would not give it out any more.
    share("react-toastify").catch(() => {});
    const { Notification } = await share("@jupyterlab/apputils");
    const parts = [page.hubServerUser, page.hubServerName].filter(Boolean).map(encodeURIComponent);
    const address = `${page.hubHost ?? ""}${page.hubPrefix}metalhub/notice/${parts.join("/")}`;
    let shown = "", last = false, timer = 0, asleep = false, slept = "";

    async function post(fields, failed) {
      const body = new URLSearchParams(fields);
      let message = failed, type = "error";
      try {
        const answer = await fetch(address, { method: "POST", body });
        message = (await answer.json()).message;
        if (answer.ok) type = "success";
      } catch { /* as above */ }
      Notification.emit(message, type, { autoClose: 8000 });
      look();
    }

    const extend = (ticket) => post({ ticket }, "The session could not be extended: the hub does not answer. Try again.");
    const wake = (ticket) => post({ ticket, wake: 1 }, "The session could not be woken: the hub does not answer. Try again.");

    function sleeping(session) {
      const before = asleep;
      asleep = session.state === "hibernated";
      // JupyterLab asks nothing of a session that stands still, and goes on where it was.
      if (info && asleep !== before) info.isConnected = !asleep;
      if (asleep && !slept) {
        const message = "This session is hibernated: nobody used it for a while. All that is in it is as you left it.";
        const actions = [{ label: "Wake it", displayType: "accent", callback: () => { slept = ""; wake(session.ticket); } }];
        slept = Notification.emit(message, "info", { actions, autoClose: false });
      } else if (!asleep && slept) {
        Notification.dismiss(slept);
        slept = "";
      }
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
      const stays = session.stays ? ` Not hibernated: ${session.stays}` : "";
      const message = `This session stops ${when} ${session.because}. Your home stays; what is in memory is lost.${stays}`;
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

    look = async () => {
      clearTimeout(timer);
      let next = EVERY, session = null;
      try {
        const answer = await fetch(address);
        if (answer.ok) {
          session = await answer.json();
          sleeping(session);
          show(session);
          tell(session.notices);
          if (session.warned) next = WARNED_EVERY;
        }
      } catch { /* a hub that restarts ends no session */ }
      timer = setTimeout(look, next);
      return session;
    };

    document.addEventListener("visibilitychange", () => document.hidden || look());
    look();
  }

  const notice = (IInfo) => ({
    id: `${NAME}:notice`,
    description: "Announces the session's end.",
    autoStart: true,
    optional: [IInfo],
    // What is announced before JupyterLab is there goes unseen.
    activate: (app, info) => void app.restored.then(() => watch(info)),
  });

  // It replaces JupyterLab's own question, whether to restart a server that is not running: a hibernated session must not be.
  const lost = ({ ConnectionLost, IConnectionLost }, { Dialog, showDialog }) => ({
    id: `${NAME}:lost`,
    description: "Says why the session does not answer.",
    autoStart: true,
    provides: IConnectionLost,
    activate: () => {
      let asking = false;
      return async (...failure) => {
        if (asking) return;
        asking = true;
        try {
          const session = await look();
          if (session?.state === "hibernated") return;
          if (!session || session.does || session.pending) return await ConnectionLost(...failure);
          const buttons = [Dialog.cancelButton({ label: "Dismiss" }), Dialog.okButton({ label: "My sessions" })];
          const body = session.ended || "The session is stopped. Your home is as you left it.";
          const result = await showDialog({ title: "This session has ended", body, buttons });
          if (result.button.accept) window.open(`${page.hubHost ?? ""}${page.hubPrefix}home`, "_blank");
        } finally {
          asking = false;
        }
      };
    },
  });

  (window._JUPYTERLAB ??= {})[NAME] = {
    init: (modules) => { shared = modules; },
    get: async () => {
      const [application, apputils] = await Promise.all(["@jupyterlab/application", "@jupyterlab/apputils"].map(share));
      return () => ({ __esModule: true, default: [notice(application.JupyterLab.IInfo), lost(application, apputils)] });
    },
  };
})();
