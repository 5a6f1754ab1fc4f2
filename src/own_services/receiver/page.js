// Every 5 seconds: the list anew, and only the list, so that place and focus stay.
setInterval(async () => {
  const state = document.getElementById("state");
  try {
    const answer = await fetch("/");
    if (!answer.ok) throw new Error(answer.status);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const old = document.getElementById("list"), list = page.getElementById("list");
    if (old.dataset.last !== list.dataset.last) old.replaceWith(list);
    state.textContent = "";
  } catch (error) {
    state.textContent = "The receiver does not answer; this list is not fresh.";
  }
}, 5000);
