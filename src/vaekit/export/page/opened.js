// A page that is opened as a file cannot load its model: browsers allow that from a server alone.
if (location.protocol === "file:") {
  document.getElementById("summary").textContent = "";
  const message = document.getElementById("message");
  message.hidden = false;
  message.textContent =
    "This page needs a server, any one: run  python3 -m http.server  in its folder and open http://127.0.0.1:8000 " +
    "or use  vaekit explore.";
}
