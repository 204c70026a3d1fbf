"""uWebSockets with OpenSSL, prebuilt and driven by Python: `echo.py PORT CERT KEY`, one thread."""

import sys

from socketify import App, AppListenOptions, AppOptions, CompressOptions

port, cert, key = int(sys.argv[1]), sys.argv[2], sys.argv[3]
app = App(AppOptions(cert_file_name=cert, key_file_name=key))
app.ws(
    "/*",
    {
        "compression": CompressOptions.DISABLED,
        "max_payload_length": 16 * 1024 * 1024,
        "idle_timeout": 120,
        "max_backpressure": 64 * 1024 * 1024,
        "message": lambda ws, message, opcode: ws.send(message, opcode),
    },
)
app.listen(AppListenOptions(port=port, host="127.0.0.1"), lambda _config: None)
app.run()
