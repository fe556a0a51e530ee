"""Mail, by the site's SMTP server."""

from __future__ import annotations

import smtplib
import ssl
from email.message import EmailMessage
from pathlib import Path

from .config import Smtp

PATIENCE = 20.0


class MailError(Exception):
    """A mail was not taken; the text says why."""


def send(settings: Smtp, to: str, subject: str, text: str) -> None:
    """Give a mail to the server. Takes seconds, so it is for a thread. Raises MailError."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = settings.sender, to, subject
    message.set_content(text)
    try:
        context = ssl.create_default_context()
        kind = smtplib.SMTP_SSL if settings.tls == "tls" else smtplib.SMTP
        with kind(settings.host, settings.port, timeout=PATIENCE, **({"context": context} if settings.tls == "tls" else {})) as server:
            if settings.tls == "starttls":
                server.starttls(context=context)
            if settings.user:
                server.login(settings.user, Path(settings.password_file).read_text(encoding="utf-8").strip())
            server.send_message(message)
    except (OSError, smtplib.SMTPException, ValueError) as error:
        raise MailError(f"{settings.host}:{settings.port}: {error or type(error).__name__}") from None
